import logging
import math

import numpy as np
import pytest
import timm
import torch
from timm.optim import get_optimizer_info, list_optimizers
from torch import nn
from torch.optim import SGD, Optimizer

from dist_sparse.config import Length
from dist_sparse.config.schema import OptimConfig, SchedulerConfig, TrainConfig
from dist_sparse.errors import UserError
from dist_sparse.optim import (
    ZeroPreservation,
    build_ema,
    build_loss,
    build_mixup,
    build_optimizer,
    build_scheduler,
    check_zero_preservation,
    effective_lr,
    try_zero_preservation,
)
from dist_sparse.seeding import generator
from tests.idle import idle


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


# --- optimizer


def decays(optimizer: Optimizer) -> dict[int, float]:
    return {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("everywhere", [False, True])
def test_weight_decay_leaves_norms_and_biases_out(everywhere):
    model = small_model()
    config = OptimConfig(weight_decay=0.25, decay_norm_and_bias=everywhere)
    found = decays(build_optimizer(config, model, 128))
    assert len(found) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert found[id(p)] == (0.25 if p.ndim > 1 or everywhere else 0.0), name


def test_weight_decay_respects_the_models_own_list():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=1)
    found = decays(build_optimizer(OptimConfig(weight_decay=0.25), model, 128))
    assert model.pos_embed.ndim > 1
    assert found[id(model.pos_embed)] == 0.0
    assert found[id(model.blocks[0].attn.qkv.weight)] == 0.25


def test_learning_rate_rule():
    assert effective_lr(OptimConfig(lr=0.1), 512) == 0.1
    config = OptimConfig(lr=0.1, lr_batch_size=256)
    assert effective_lr(config, 512) == 0.2
    assert {group["lr"] for group in build_optimizer(config, small_model(), 64).param_groups} == {0.025}


def test_momentum_and_arguments_arrive():
    assert build_optimizer(OptimConfig(momentum=0.5), small_model(), 1).defaults["momentum"] == 0.5
    assert build_optimizer(OptimConfig(), small_model(), 1).defaults["nesterov"]
    assert not build_optimizer(OptimConfig(name="momentum"), small_model(), 1).defaults["nesterov"]
    config = OptimConfig(name="adamw", kwargs={"betas": [0.5, 0.75]})
    assert list(build_optimizer(config, small_model(), 1).defaults["betas"]) == [0.5, 0.75]
    assert build_optimizer(OptimConfig(name="lookahead_adamw"), small_model(), 1)


def test_momentum_that_is_not_used_is_said():
    assert list(idle(optim=OptimConfig(name="lookahead_adamw", momentum=0.5))) == ["optim.momentum"]
    assert idle(optim=OptimConfig(name="muon", momentum=0.5)) == {}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (OptimConfig(name="adamv"), ["optim.name='adamv' is unknown; did you mean ", "adamw"]),
        (OptimConfig(name="foo_sgd"), ["optim.name='foo_sgd' is unknown"]),
        (OptimConfig(name="adahessian"), ["optim.name=adahessian", "second derivatives"]),
        (OptimConfig(kwargs={"bets": 1}), ["optim.kwargs={'bets': 1}"]),
        (OptimConfig(kwargs={"betas": [0.9, 0.99]}), ["optim.kwargs.betas"]),
        (OptimConfig(kwargs={"lr": 1}), ["optim.kwargs.lr", "optim.lr"]),
        (OptimConfig(momentum=0), ["optim.name=sgd", "momentum"]),
    ],
)
def test_optimizer_mistakes(config, words):
    with pytest.raises(UserError) as caught:
        build_optimizer(config, small_model(), 1)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (OptimConfig(name="adamw", kwargs={"betas": [0.9]}), ["optim.kwargs={'betas': [0.9]}"]),
        (
            OptimConfig(name="lamb", kwargs={"max_grad_norm": "a", "trust_clip": True}),
            ["{'max_grad_norm': 'a'}: "],
        ),
        (OptimConfig(name="adamw", kwargs={"differentiable": True}), ["optim.kwargs={'differentiable': True}: "]),
        (OptimConfig(name="adamw", kwargs={"capturable": True}), ["optim.kwargs={'capturable': True}: "]),
        (OptimConfig(name="adamw", kwargs={"eps": 0}), ["optim.kwargs={'eps': 0}", "not finite after 7 steps of a trial"]),
        (OptimConfig(weight_decay=1e30), ["optim.weight_decay=1e+30", "not finite"]),
        (OptimConfig(lr=1e-30), ["optim.lr=1e-30", "changes no weight"]),
    ],
)
def test_arguments_that_are_refused_at_the_step_are_found_before_it(config, words):
    with pytest.raises(UserError) as caught:
        check_zero_preservation(config)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


OWN = [name for name in list_optimizers() if not get_optimizer_info(name).second_order and not name.startswith("kron")]
"""Kron compiles itself, which takes long."""


@pytest.mark.parametrize("name", OWN)
def test_the_trial_refuses_no_optimizer_with_its_own_arguments(name):
    if name.startswith(("bnb", "fused")):  # of packages for CUDA
        with pytest.raises(UserError, match=r"CUDA required|not installed"):
            check_zero_preservation(OptimConfig(name=name, lr=1e-3))
        return
    found = check_zero_preservation(OptimConfig(name=name, lr=1e-3))
    assert found.finite and found.moves


def test_a_rate_that_is_too_high_is_for_training_to_show():
    assert check_zero_preservation(OptimConfig(lr=1e30)) == ZeroPreservation(weights=True, state=True)


# --- zeros


class Centralised(SGD):
    """Gradient centralisation (Yong et al. 2020): each output's gradient has mean zero, also where the mask is."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad -= p.grad.mean(dim=tuple(range(1, p.ndim)), keepdim=True)
        return super().step(closure)


KEEP_BOTH = (
    "sgd momentum nesterov adam adamw nadamw radam lamb lars larc lion adan adopt laprop madgrad mars sgdw sgdp adamp novograd"
)
KEEP_WEIGHTS = "adafactor adafactorbv adabelief rmsproptf adamax"  # their state has a floor, or starts at one


@pytest.mark.parametrize("name", KEEP_BOTH.split())
def test_optimizers_that_keep_zeros(name):
    assert check_zero_preservation(OptimConfig(name=name, lr=0.01)) == ZeroPreservation(weights=True, state=True)


@pytest.mark.parametrize("name", KEEP_WEIGHTS.split())
def test_optimizers_whose_state_leaves_zero(name):
    assert check_zero_preservation(OptimConfig(name=name, lr=0.01)) == ZeroPreservation(weights=True, state=False)


@pytest.mark.parametrize("name", ["muon", "adamuon"])
def test_optimizers_that_mix_entries(name):
    assert not check_zero_preservation(OptimConfig(name=name, lr=0.01)).weights


def test_gradient_centralisation_does_not_keep_zeros():
    found = try_zero_preservation(lambda model: Centralised(model.parameters(), lr=0.1, momentum=0.9))
    assert found == ZeroPreservation(weights=False, state=False)


def test_trying_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_zero_preservation(OptimConfig())
    assert torch.equal(torch.rand(3), expected)


# --- scheduler


def rates(config: SchedulerConfig, total: int = 100, steps_per_epoch: int = 10, lr: float = 0.5) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = build_scheduler(config, optimizer, steps_per_epoch=steps_per_epoch, total_steps=total)
    found = [optimizer.param_groups[0]["lr"]]
    for step in range(1, total + 1):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine():
    found = rates(SchedulerConfig(min_lr=0.01))
    assert found[0] == 0.5
    assert found[50] == pytest.approx(0.255)
    assert found[99] == pytest.approx(0.01 + 0.49 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert found[100] == 0.01


@pytest.mark.parametrize("name", ["cosine", "constant", "multistep", "poly", "wsd"])
def test_warmup_is_linear_and_reaches_the_peak(name):
    milestones = [Length(0.5, "run")] if name == "multistep" else []
    found = rates(SchedulerConfig(name=name, warmup=Length(2, "epochs"), warmup_lr=0.1, milestones=milestones))
    assert found[:20] == pytest.approx([0.1 + 0.4 * step / 20 for step in range(20)])
    assert found[20] == max(found) == 0.5


def test_cosine_after_warmup_ends_with_the_run():
    found = rates(SchedulerConfig(warmup=Length(20, "steps")))
    assert found[60] == pytest.approx(0.25)
    assert found[99] < 0.001
    assert found[100] == 0.0


def test_multistep_counts_from_the_start_of_the_run():
    milestones = [Length(0.75, "run"), Length(30, "steps"), Length(5, "epochs")]
    found = rates(SchedulerConfig(name="multistep", milestones=milestones, decay_rate=0.5, warmup=Length(1, "epochs")))
    assert found[10:30] == [0.5] * 20
    assert found[30:50] == [0.25] * 20
    assert found[50:75] == [0.125] * 25
    assert found[75:] == [0.0625] * 26


def test_step_and_constant_and_poly():
    found = rates(SchedulerConfig(name="step", decay_every=Length(4, "epochs"), decay_rate=0.5))
    assert found == [0.5] * 40 + [0.25] * 40 + [0.125] * 21
    assert rates(SchedulerConfig(name="constant")) == [0.5] * 101
    assert rates(SchedulerConfig(name="poly", decay_rate=1.0))[25:101:25] == pytest.approx([0.375, 0.25, 0.125, 0.0])


@pytest.mark.parametrize("name", ["cosine", "tanh", "poly", "wsd", "rsqrt", "constant", "step", "multistep"])
def test_rate_is_a_pure_function_of_the_step(name):
    config = SchedulerConfig(
        name=name, warmup=Length(7, "steps"), milestones=[Length(0.5, "run")], decay_every=Length(11, "steps"), min_lr=0.01
    )
    straight = rates(config)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = build_scheduler(config, optimizer, steps_per_epoch=10, total_steps=100)
    for step in torch.randperm(101, generator=generator("order")).tolist():
        scheduler.step_update(step)
        assert optimizer.param_groups[0]["lr"] == straight[step]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SchedulerConfig(name="cosin"), "did you mean cosine"),
        (SchedulerConfig(name="plateau"), "scheduler.name=plateau"),
        (SchedulerConfig(name="multistep"), "scheduler.milestones"),
        (SchedulerConfig(name="step"), "scheduler.decay_every"),
        (SchedulerConfig(name="step", decay_every=Length(0, "steps")), "scheduler.decay_every"),
        (SchedulerConfig(name="rsqrt"), "scheduler.name=rsqrt"),
        (SchedulerConfig(warmup=Length(10, "epochs")), "scheduler.warmup=10 epochs: is 100 steps, the run has only 100"),
    ],
)
def test_scheduler_mistakes(config, words):
    with pytest.raises(UserError) as caught:
        rates(config)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (SchedulerConfig(milestones=[Length(5, "steps")], decay_rate=0.5), ["milestones", "decay_rate"]),
        (SchedulerConfig(name="constant", min_lr=0.1), ["min_lr"]),
        (SchedulerConfig(warmup_lr=0.1), ["warmup_lr"]),
        (SchedulerConfig(warmup=Length(5, "steps"), warmup_lr=0.1, min_lr=0.1), []),
        (SchedulerConfig(name="step", decay_every=Length(5, "steps"), decay_rate=0.5), []),
    ],
)
def test_settings_that_have_no_effect_are_said(config, keys):
    assert list(idle(scheduler=config)) == [f"scheduler.{key}" for key in keys]


def test_a_milestone_after_the_run_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        rates(SchedulerConfig(name="multistep", milestones=[Length(200, "steps")]))
    assert "step 200 lies past the run's last step, 99" in caplog.text


# --- mixup, loss, moving average


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
