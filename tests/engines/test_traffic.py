"""What is sent in a step, by counting."""

import pytest

from dist_sparse.engines.traffic import bytes_per_step, elements_per_step

PARAMETERS = {"conv.weight": 1000, "bn.weight": 10, "fc.weight": 500, "fc.bias": 5}


def test_masked_layers_send_their_active_weights_and_the_others_everything() -> None:
    assert elements_per_step(PARAMETERS, {"conv.weight": 100, "fc.weight": 50}) == 100 + 10 + 50 + 5


def test_a_dense_step_sends_everything() -> None:
    assert elements_per_step(PARAMETERS, {}) == 1515


@pytest.mark.parametrize(
    ("world_size", "precision", "compress", "sent"),
    [
        (1, "fp32", "none", 0),
        (2, "fp32", "none", 4000),
        (4, "fp32", "none", 6000),
        (4, "fp16", "none", 6000),
        (4, "fp32", "bf16", 3000),
        (4, "fp64", "none", 12000),
        (3, "fp32", "none", 5334),
    ],
)
def test_bytes_are_those_of_a_ring(world_size: int, precision: str, compress: str, sent: int) -> None:
    assert bytes_per_step(1000, world_size, precision=precision, compress=compress) == sent  # type: ignore[arg-type]
