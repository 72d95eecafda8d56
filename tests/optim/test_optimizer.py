"""Optimizers from their keys, the trial of their arguments, and which of them keep zeros."""

import pytest
import timm
import torch
from timm.optim import get_optimizer_info, list_optimizers
from torch.optim import SGD, Optimizer

from dist_sparse.config.schema import OptimConfig
from dist_sparse.errors import UserError
from dist_sparse.optim import (
    ZeroPreservation,
    build_optimizer,
    check_zero_preservation,
    effective_lr,
    try_zero_preservation,
)
from dist_sparse.optim.zeros import keeps_untrained
from tests.idle import idle
from tests.optim.small import small_model


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
    slow = build_optimizer(OptimConfig(name="adamw", lookahead=True, lookahead_k=3, lookahead_alpha=0.25), small_model(), 1)
    assert {(group["lookahead_k"], group["lookahead_alpha"]) for group in slow.param_groups} == {(3, 0.25)}


def test_layers_that_learn_alike_need_no_order():
    groups = build_optimizer(OptimConfig(layer_decay=1), small_model(), 1).param_groups
    assert {group.get("lr_scale", 1.0) for group in groups} == {1.0}
    with pytest.raises(UserError, match=r"optim\.layer_decay=0\.5: timm knows no order"):
        build_optimizer(OptimConfig(layer_decay=0.5), small_model(), 1)


def test_a_trial_takes_the_least_rate_of_layers_too():
    assert check_zero_preservation(OptimConfig(layer_decay=0.5, kwargs={"layer_decay_min_scale": 0.1})).weights


def test_momentum_that_is_not_used_is_said():
    assert list(idle(optim=OptimConfig(name="adamw", lookahead=True, momentum=0.5))) == ["optim.momentum"]
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
        (OptimConfig(kwargs={"layer_decay_min_scale": 0.1}), ["layer_decay_min_scale: does nothing without optim.layer_decay"]),
        (
            OptimConfig(layer_decay=0.5, kwargs={"layer_decay_no_opt_scale": 0.3}),
            ["optim.kwargs.layer_decay_no_opt_scale: all layers are trained here"],
        ),
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


@pytest.mark.parametrize(
    "name", f"{KEEP_WEIGHTS} sgd momentum adamw lamb lars larc lion adan adopt laprop mars novograd".split()
)
def test_optimizers_that_leave_weights_without_a_gradient_as_they_are(name):
    assert keeps_untrained(OptimConfig(name=name, lr=0.01, weight_decay=5e-4))


@pytest.mark.parametrize("name", ["muon", "adamuon", "adamp", "sgdp", "madgrad"])
def test_optimizers_that_move_weights_without_a_gradient(name):
    assert not keeps_untrained(OptimConfig(name=name, lr=0.01))


@pytest.mark.parametrize(("alpha", "keeps"), [(0.5, False), (1.0, True)])
def test_lookahead_moves_weights_towards_a_state_that_is_zeroed(alpha, keeps):
    assert keeps_untrained(OptimConfig(lookahead=True, lookahead_alpha=alpha)) == keeps


def test_trying_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_zero_preservation(OptimConfig())
    keeps_untrained(OptimConfig())
    assert torch.equal(torch.rand(3), expected)
