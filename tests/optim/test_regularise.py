"""Mixup, the loss, and the moving average of weights."""

import numpy as np
import pytest
import torch
from torch import nn

from dist_sparse.config.schema import TrainConfig
from dist_sparse.errors import UserError
from dist_sparse.optim import build_ema, build_loss, build_mixup
from dist_sparse.seeding import generator
from tests.optim.small import small_model


def batch(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator("batch")
    return torch.rand(size, 3, 6, 6, generator=draws), torch.randint(5, (size,), generator=draws)


@pytest.mark.parametrize("config", [TrainConfig(mixup=0.8), TrainConfig(cutmix=1.0), TrainConfig(mixup=0.8, cutmix=1.0)])
def test_mixup_is_a_pure_function_of_seed_and_step(config):
    images, labels = batch()
    mix = build_mixup(config, 5, seed=1, world_size=1)
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    first = [mix(images.clone(), labels, step) for step in range(4)]
    assert np.random.rand() == expected  # noqa: NPY002
    again = [build_mixup(config, 5, seed=1, world_size=1)(images.clone(), labels, step) for step in reversed(range(4))][::-1]
    for (x, y), (x_again, y_again) in zip(first, again, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
        assert y.shape == (8, 5)
        assert torch.allclose(y.sum(1), torch.ones(8))
    assert len({x.sum(dim=(1, 2, 3))[0].item() for x, _ in first}) > 1
    other_seed = [build_mixup(config, 5, seed=2, world_size=1)(images.clone(), labels, step)[1] for step in range(4)]
    assert not all(torch.equal(y, other) for (_, y), other in zip(first, other_seed, strict=True))


def test_ranks_with_other_samples_draw_the_same_share():
    config = TrainConfig(mixup=1.0)
    shares = []
    for labels in (torch.tensor([0, 1]), torch.tensor([3, 4])):
        _, targets = build_mixup(config, 5, seed=1, world_size=1)(torch.rand(2, 3, 6, 6), labels, 7)
        shares.append(targets[0, labels[0]].item())
    assert shares[0] == shares[1]


def test_mixup_off_and_odd_batches():
    assert build_mixup(TrainConfig(), 5, seed=1, world_size=1) is None
    odd_on_each_of_two_ranks = TrainConfig(mixup=1.0, batch_size=28, accumulation=2)
    assert build_mixup(odd_on_each_of_two_ranks, 5, seed=1, world_size=1) is not None
    with pytest.raises(UserError, match="even micro-batch on each rank, not 7"):
        build_mixup(odd_on_each_of_two_ranks, 5, seed=1, world_size=2)


def test_an_alpha_that_draws_nothing():
    with pytest.raises(UserError, match=r"train\.cutmix=\S+: no share can be drawn from Beta"):
        build_mixup(TrainConfig(mixup=0.1, cutmix=1e-320), 10, seed=0, world_size=1)


def test_labels_are_smoothed_once():
    logits = torch.randn(8, 5, generator=generator("logits"))
    images, labels = batch()
    smooth = TrainConfig(label_smoothing=0.1)
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert build_loss(smooth)(logits, labels) == expected
    mixed = TrainConfig(label_smoothing=0.1, mixup=1e-9)  # such a small alpha draws a lambda of 0 or 1
    _, targets = build_mixup(mixed, 5, seed=1, world_size=1)(images, labels, 0)
    candidates = [nn.functional.cross_entropy(logits, each, label_smoothing=0.1) for each in (labels, labels.flip(0))]
    loss = build_loss(mixed)(logits, targets)
    assert any(torch.isclose(loss, each) for each in candidates)


def test_moving_average():
    assert build_ema(TrainConfig(), small_model()) is None
    model = small_model()
    ema = build_ema(TrainConfig(ema=0.75), model)
    norm, weight = model[1], model[0].weight
    for value in (1.0, 2.0):
        with torch.no_grad():
            weight.fill_(value)
            norm.running_mean.fill_(value)
            norm.num_batches_tracked.fill_(int(value))
        ema.update(model, step=int(value))
    average = ema.module.state_dict()
    # The first update copies (1.0), the second goes a quarter of the way to 2.0; counters are copied.
    assert torch.allclose(average["0.weight"], torch.full_like(weight, 1.25))
    assert torch.allclose(average["1.running_mean"], torch.full((4,), 1.25))
    assert average["1.num_batches_tracked"] == 2
    small_model().load_state_dict(average)
    restored = build_ema(TrainConfig(ema=0.75), small_model())
    restored.load_state_dict(ema.state_dict())
    assert torch.equal(restored.module[0].weight, ema.module[0].weight)
