"""The scale of the loss in fp16, where engines scale it themselves."""

from dist_sparse.engines.loss_scale import LossScale


def test_overflows_halve_it_but_never_to_nothing() -> None:
    scale = LossScale(enabled=True)
    for _ in range(17):
        scale.update(overflowed=True)
    assert scale.value == 0.5
    for _ in range(1100):
        scale.update(overflowed=True)
    assert 0 < scale.value < 1e-30
