"""What is not finite reaches neither the steps after it nor a checkpoint: whole runs, spoilt in the middle."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.trainer import Moment, Trainer
from tests.command import Outcome, metrics, train_here
from tests.values import LOGGED

NORMS = {
    **LOGGED,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 1,
    "train.batch_size": 180,
    "checkpoint.every": 1,
    "checkpoint.keep": 9,
    "sparsity.update.interval": "2 steps",
}
"""Seven steps of a network with batch norms, and a checkpoint after each."""
METHODS: dict[str, dict[str, Any]] = {
    "rigl": {"sparsity.method": "rigl", "sparsity.density": 0.3, "train.ema": 0.9},
    "mest": {"sparsity.method": "mest", "sparsity.density": 0.3, "sparsity.mest.removal_gradient": 0.1, "train.ema": 0.9},
    "srste": {"sparsity.method": "srste", "sparsity.structure": "nm:1:2", "sparsity.update.interval": None},
    "ast": {"sparsity.method": "ast", "sparsity.ast.densities": [0.5, 0.3], "sparsity.ramp.end": "3 steps"},
}
MOVED = ("state_dict", "state_dict_ema", "optimizer", "method")
"""What of a checkpoint a step moves, beside its counts."""
METHODS["srste"]["sparsity.keep_dense"] = ["first"]


def run(values: dict[str, Any], folder: Path, spoil: Callable[[DDPEngine, int], float | None]) -> Outcome:
    """A run in which ``spoil`` acts before each micro-batch, of which it gets the number."""
    whole, calls = DDPEngine.forward_backward, iter(range(1000))

    def forward_backward(self: DDPEngine, images: Tensor, *arguments: Any) -> Tensor:
        factor = spoil(self, next(calls))
        return whole(self, images if factor is None else images * factor, *arguments)

    with mock.patch.object(DDPEngine, "forward_backward", forward_backward):
        return train_here({**NORMS, **values, "output": folder})


def checkpoints(folder: Path) -> dict[int, dict[str, Any]]:
    paths = sorted((folder / "checkpoints").glob("step_*.pt"))
    return {int(path.stem.removeprefix("step_")): torch.load(path, weights_only=True) for path in paths}


def tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from tensors(value, f"{path}.{key}")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_forward_that_overflows_in_fp16_leaves_nothing_behind(tmp_path: Path, method: str, accumulation: int) -> None:
    """At step 4, in its first micro-batch: the checkpoint after it is that of step 3, but for the counts of steps."""
    values = {**METHODS[method], "train.precision": "fp16", "train.accumulation": accumulation}
    outcome = run(values, tmp_path, lambda _, call: 1e30 if call == 3 * accumulation else None)
    assert outcome.code == 0, outcome.err
    states = checkpoints(tmp_path)
    assert (tmp_path / "checkpoints" / "best.pt").exists()
    for step in (5, 6, 7):
        for name, tensor in tensors(states[step]):
            assert not tensor.is_floating_point() or tensor.isfinite().all(), f"{name} at step {step}"
    # Of sub-nets another one is in the model at each step; each has its batch norms beside it.
    before, after = (
        dict(tensors(state["method"]["norms"]["sets"] if method == "ast" else {key: state[key] for key in MOVED}))
        for state in (states[3], states[4])
    )
    assert [name for name, tensor in after.items() if not torch.equal(tensor, before[name])] == []
    assert after.keys() == before.keys() and any("running_var" in name for name in after)
    assert all(float(row["train/loss"]) < 100 for row in metrics(tmp_path) if row["step"] in ("5", "6", "7"))


def test_one_gradient_that_is_not_finite_costs_one_step(tmp_path: Path) -> None:
    """In fp32 on an update step of the original form, which would not have moved weights either."""
    outcome = run(METHODS["rigl"], tmp_path, spoilt_gradients(3))
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("not finite") == 1
    assert "WARNING: step 4 would choose masks by gradients or weights that are not finite" in outcome.err
    states = checkpoints(tmp_path)
    for key in ("state_dict", "state_dict_ema", "optimizer", "method"):
        before, after = (dict(tensors(states[step][key])) for step in (3, 4))
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    changed = {int(row["step"]): row["sparsity/changed"] for row in metrics(tmp_path)}
    assert [step for step, value in changed.items() if value] == [2, 5], (
        "the update of step 4 is made at step 5; it was the last"
    )


def test_many_of_them_in_a_row_end_the_run(tmp_path: Path) -> None:
    outcome = run({**METHODS["rigl"], "train.nan_limit": 3}, tmp_path, spoilt_gradients(3, 4, 5, 6))
    assert outcome.code == 2
    (error,) = outcome.errors
    assert error.startswith("the gradients have not been finite for 3 steps in a row, up to step 6; the last good")
    assert outcome.err.count("would choose masks") == 1, "told once"


def test_gradients_that_overflow_at_any_scale_end_a_run_in_fp16(tmp_path: Path) -> None:
    """Their loss is finite. 17 of them bring the scale from 65536 to below 1, and the next three count."""
    values = {**METHODS["srste"], "train.precision": "fp16", "train.nan_limit": 3, "train.epochs": 3}
    outcome = run(values, tmp_path, spoilt_gradients(*range(21)))
    assert outcome.code == 2
    (error,) = outcome.errors
    assert error.startswith("the gradients have not been finite for 3 steps in a row, up to step 20; ")
    assert outcome.err.count("WARNING: step 18 has gradients that are not finite even at a loss scale below 1") == 1, (
        "told once"
    )


def spoilt_gradients(*calls: int) -> Callable[[DDPEngine, int], float | None]:
    """Spoil the gradient of one weight after the backward of the micro-batches of these numbers; the loss stays as it is."""
    now: list[bool] = [False]

    def hook(gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, torch.tensor(0), float("nan")) if now[0] else gradient

    def spoil(engine: DDPEngine, call: int) -> None:
        if call == 0:
            engine.model.get_parameter("layer1.0.conv1.weight").register_hook(hook)
        now[0] = call in calls

    return spoil


def _some_buffer(trainer: Trainer) -> Tensor:
    return trainer.engine.model.get_buffer("bn1.running_var")


def _some_ema_buffer(trainer: Trainer) -> Tensor:
    assert trainer.ema is not None
    return trainer.ema.module.get_buffer("bn1.running_var")


def _some_ema_weight(trainer: Trainer) -> Tensor:
    assert trainer.ema is not None
    return next(trainer.ema.module.parameters())


def _some_momentum(trainer: Trainer) -> Tensor:
    return next(tensor for name, tensor in trainer.engine.held("optimizer") if "momentum" in name)


def _some_stored_gradient(trainer: Trainer) -> Tensor:
    method: Any = trainer.method
    return next(iter(method._gradients.values()))


@pytest.mark.parametrize(
    ("spoilt", "named"),
    [
        (_some_buffer, "buffer bn1.running_var, state_dict.bn1.running_var"),
        (_some_ema_buffer, "state_dict_ema.bn1.running_var"),
        (_some_ema_weight, "state_dict_ema."),
        (_some_momentum, "optimizer "),
        (_some_stored_gradient, "method.gradients."),
    ],
    ids=lambda value: value.__name__.removeprefix("_some_") if callable(value) else "",
)
def test_a_checkpoint_of_it_is_refused(tmp_path: Path, spoilt: Callable[[Trainer], Tensor], named: str) -> None:
    """Whatever it is that is not finite after step 6, the checkpoints before it stay and none comes after them."""

    def spoil(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.STEPPED and trainer.progress.step == 6:
            spoilt(trainer).detach().view(-1)[0] = float("inf")

    outcome = train_here({**NORMS, **METHODS["mest"], "output": tmp_path}, interrupt_after=6, hooks=[spoil])
    assert list(checkpoints(tmp_path)) == [1, 2, 3, 4, 5]
    assert f"WARNING: no checkpoint at step 6: not finite: {named}" in outcome.err


def test_constants_of_a_network_need_not_be_finite(tmp_path: Path) -> None:
    """Such as a mask of attention that is kept as a buffer."""
    init = nn.BatchNorm2d.__init__

    def with_constant(self: nn.BatchNorm2d, *arguments: Any, **keys: Any) -> None:
        init(self, *arguments, **keys)
        self.register_buffer("constant", torch.tensor([0.0, float("-inf")]))

    with mock.patch.object(nn.BatchNorm2d, "__init__", with_constant):
        outcome = run({**METHODS["rigl"], "train.precision": "fp16"}, tmp_path, lambda *_: None)
    assert outcome.code == 0 and "not finite" not in outcome.err
    assert list(checkpoints(tmp_path)) == [1, 2, 3, 4, 5, 6, 7]
