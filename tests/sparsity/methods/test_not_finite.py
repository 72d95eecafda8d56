"""Masks are never chosen by what is not finite, in any precision: such a step moves nothing, and its update is made up for."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import (
    AstConfig,
    MestConfig,
    RampConfig,
    ShuffledBlockConfig,
    SparsityConfig,
    UpdateConfig,
)
from dist_sparse.sparsity.methods import METHODS
from tests.sparsity.methods.test_overflow import same, snapshot

STEPS = 24
LABELS = torch.arange(8) % 4


def config(method: str, *, form: str = "original", update: dict[str, Any] | None = None, **keys: Any) -> SparsityConfig:
    updates = UpdateConfig(form=form, interval=Length(3, "steps"), drop_fraction=0.5, **(update or {}))
    density = None if keys.get("structure") == "nm:2:4" else 0.4
    return SparsityConfig(method=method, density=density, update=updates, **keys)


EVERY_THIRD = UpdateConfig(interval=Length(3, "steps"))
RAMP = RampConfig(end=Length(12, "steps"))
CASES: dict[str, SparsityConfig] = {
    **{f"{method} {form}": config(method, form=form) for method in ("set", "rigl") for form in ("original", "itop")},
    "rigl over two steps": config("rigl", update={"gradient_steps": 2}),
    "rigl itop over two steps": config("rigl", form="itop", update={"gradient_steps": 2}),
    **{f"rigl growing by {growth}": config("rigl", update={"growth": growth}) for growth in ("momentum", "random_unfired")},
    **{f"rigl removing by {kind}": config("rigl", update={"removal": kind}) for kind in ("set", "taylor")},
    "rigl removing by threshold": config("rigl", update={"removal": "threshold", "removal_threshold": 0.1}),
    "set removing by taylor": config("set", update={"removal": "taylor"}),
    **{f"set sharing by {kind}": config("set", update={"redistribution": kind}) for kind in ("magnitude", "momentum")},
    **{f"rigl by {structure}": config("rigl", structure=structure) for structure in ("fan_in", "filter", "nm:2:4")},
    "snfs": config("snfs"),
    "gmp": config("gmp", ramp=RAMP),
    "gmp_uniform": config("gmp_uniform", ramp=RAMP),
    "granet": config("granet", ramp=RAMP),
    "granet_uniform": config("granet_uniform", ramp=RAMP),
    "shuffled_block": config("shuffled_block", shuffled_block=ShuffledBlockConfig(size=2)),
    "shuffled_block itop": config("shuffled_block", form="itop", shuffled_block=ShuffledBlockConfig(size=2)),
    "ast": SparsityConfig(method="ast", update=EVERY_THIRD, ramp=RAMP, ast=AstConfig(densities=[0.4])),
    "ast, groups": SparsityConfig(method="ast", update=EVERY_THIRD, ramp=RAMP, ast=AstConfig(structures=["nm:2:4"])),
}
"""Each updates at step 3, in it or after it."""
SNIP = SparsityConfig(method="static", density=0.4, init="snip")
MEST = config("mest", mest=MestConfig(keep=[0.2, 0.4], grow_to=[0.4, 0.4], decay=[Length(12, "steps")]))
GRADIENT = config(
    "mest", mest=MestConfig(keep=[0.2, 0.4], grow_to=[0.4, 0.4], decay=[Length(12, "steps")], removal_gradient=0.5)
)
AFTERWARDS = {"mest": MEST, "mest by gradients": GRADIENT, "srste": SparsityConfig(method="srste", structure="nm:2:4")}
"""Masks move before a step's forward, or at every step."""


def images(step: int) -> Tensor:
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(step))


@pytest.fixture
def build(small_run) -> Callable[..., Any]:
    """A run whose gradients of one parameter can be made to hold something else by ``run.poison(name, value)``."""

    def run_of(sparsity: SparsityConfig, precision: str = "fp32") -> Any:
        torch.manual_seed(0)
        body = [nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)]
        if sparsity.method == "shuffled_block":
            body = [
                nn.Unflatten(1, (8, 1, 1)),
                nn.Conv2d(8, 16, 1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(16, 4),
            ]
        model = nn.Sequential(*body)
        if precision == "fp64":
            model = model.double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        run = small_run(model, optimizer, sparsity, precision=precision, total_steps=STEPS)
        poison: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            parameter.register_hook(lambda gradient, name=name: spoilt(gradient, poison.get(name)))
        return run, poison

    return run_of


def spoilt(tensor: Tensor, value: float | None) -> Tensor:
    """With one entry that is ``value``."""
    if value is None:
        return tensor
    tensor = tensor.clone()
    tensor.view(-1)[tensor.numel() // 2] = value
    return tensor


def everything(run: Any) -> dict[str, Any]:
    return {**snapshot(run), "buffers": copy.deepcopy(dict(run.engine.model.named_buffers()))}


def poisoned_step(run: Any, poison: dict[str, float], name: str, value: float) -> Any:
    poison[name] = value
    decision = run.step(images(run.number + 1), LABELS)
    poison.clear()
    return decision


def layer(run: Any) -> str:
    return next(iter(run.method.masks.names))


@pytest.mark.parametrize("where", ["a masked layer", "a bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
@pytest.mark.parametrize("case", [*CASES, "snip"])
def test_a_gradient_on_an_update_step(build, case: str, value: float, where: str) -> None:
    run, poison = build(SNIP if case == "snip" else CASES[case])
    due = 1 if case == "snip" else 3
    for step in range(1, due):
        run.step(images(step), LABELS)
    name = (
        layer(run)
        if where == "a masked layer"
        else next(name for name in dict(run.engine.model.named_parameters()) if "bias" in name)
    )
    before, active = everything(run), run.method.masks.active()
    for _ in range(2):
        assert not poisoned_step(run, poison, name, value).updates_masks
        assert same(everything(run), before)
    assert run.train_step.undoing.in_a_row == 2
    assert run.step(images(9), LABELS).updates_masks, "made up for"
    assert run.method.masks.digest() != before["digest"]
    assert run.train_step.undoing.in_a_row == 0
    if METHODS["rigl"].name in case:
        assert sum(run.method.masks.active().values()) == sum(active.values())


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp64"])
def test_in_other_precisions(build, precision: str, caplog: pytest.LogCaptureFixture) -> None:
    run, poison = build(CASES["rigl original"], precision)
    for step in (1, 2):
        run.step(images(step), LABELS)
    before = everything(run)
    for _ in range(3):
        assert not poisoned_step(run, poison, layer(run), float("nan")).updates_masks
        assert same(everything(run), before)
    warnings = [record for record in caplog.records if "not finite" in record.message]
    assert len(warnings) == (0 if precision == "fp16" else 1), "one a run; an overflow of the scale is nothing to tell of"
    assert run.step(images(9), LABELS).updates_masks


@pytest.mark.parametrize("case", [*CASES, *AFTERWARDS])
def test_weights_that_are_not_finite_choose_no_masks(build, case: str) -> None:
    """They come from ordinary steps, which nobody watches; here the last before the update, at step 2 or 3."""
    run, poison = build({**CASES, **AFTERWARDS}[case])
    sound, before = None, None
    for step in range(1, 3 if case in CASES else 4):
        sound, before = copy.deepcopy(run.engine.model.state_dict()), run.method.masks.digest()
        if step == (2 if case in CASES else 3):
            poison[layer(run)] = float("nan")
            if case == "rigl over two steps" or case == "rigl itop over two steps":
                poison.clear()  # watched already
                run.engine.weight(layer(run)).view(-1)[0] = float("nan")
        run.step(images(step), LABELS)
    poison.clear()
    assert not all(weight.isfinite().all() for weight in run.engine.model.parameters())
    digests = []
    for step in range(4, 6):
        run.step(images(step), LABELS)
        digests.append(run.method.masks.digest())
    assert digests == [before, before]
    for name, parameter in run.engine.model.named_parameters():
        parameter.data.copy_(sound[name])
    for state in run.optimizer.state.values():
        state["momentum_buffer"].nan_to_num_(0.0)
    for step in (6, 7, 8):
        run.step(images(step), LABELS)
    assert run.method.masks.digest() != before, "with good weights it is made up for"


def test_averages_of_gradients_take_in_finite_ones_only(build) -> None:
    run, poison = build(CASES["snfs"])
    run.step(images(1), LABELS)
    before = copy.deepcopy(run.method.state_dict()["averages"])
    poisoned_step(run, poison, layer(run), float("inf"))
    after = run.method.state_dict()["averages"]
    assert same(after, before)


def test_a_gradient_that_is_not_finite_corrects_no_other() -> None:
    from dist_sparse.sparsity.methods.ast.correction import correct_

    for kind in ("within_mask", "whole"):
        gradient, previous = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([float("inf"), 1.0, float("nan")])
        correct_(gradient, previous, torch.tensor([True, True, False]), kind)
        assert torch.equal(gradient, torch.tensor([1.0, -2.0, 0.0]))
