"""The order of an optimizer step, seen at the engine and the method that make it."""

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig, UpdateConfig
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.methods.build import begin, plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.step import TrainStep
from tests import process_group

CPU = torch.device("cpu")
CALLS = {
    "method": ("before_forward", "after_backward", "after_overflow", "after_step"),
    "engine": ("forward_backward", "step"),
}
ORDINARY = ["before_forward", "forward_backward", "before_forward", "forward_backward", "after_backward", "step", "after_step"]
UNDONE = ["before_forward", "forward_backward", "before_forward", "forward_backward", "step skipped", "after_overflow"]


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group.of_one():
        yield


class Run:
    """RigL that updates in every third step, with two micro-batches a step, and the calls that its steps make."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        loss, precision = nn.functional.cross_entropy, Precision(device=CPU)
        self.engine = DDPEngine(self.model, optimizer, loss, precision=precision, accumulation=2)
        update = UpdateConfig(interval=Length(3, "steps"))
        config = resolve(SparsityConfig(method="rigl", density=0.5, keep_dense=[], update=update))
        facts = RunFacts(seed=0, steps_per_epoch=100, total_steps=100, rank=0, world_size=1, device=CPU)
        self.method = begin(plan_method(config, sparse_layers(self.model, []), facts)).bind(self.engine, remask=False)
        self.method.start()
        self.train_step = TrainStep(self.engine, self.method)
        self.number = 0

    def step(self, *scales: float) -> list[str]:
        """Make a step of a micro-batch for each scale of the images; the calls in their order."""
        self.number += 1
        called: list[str] = []

        def recording(name: str, function: Any) -> Any:
            def record(*arguments: Any, **keywords: Any) -> Any:
                called.append(f"{name} skipped" if keywords.get("skip") else name)
                return function(*arguments, **keywords)

            return record

        with (
            mock.patch.multiple(self.method, **{name: recording(name, getattr(self.method, name)) for name in CALLS["method"]}),
            mock.patch.multiple(self.engine, **{name: recording(name, getattr(self.engine, name)) for name in CALLS["engine"]}),
        ):
            for scale in scales:
                images = scale * torch.randn(8, 3, 4, 4)
                self.train_step.forward_backward(self.number, images, torch.arange(8) % 4)
            self.outcome = self.train_step.optimizer_step(self.number)
        return called


def test_micro_batches_come_before_one_optimizer_step() -> None:
    run = Run()
    assert run.step(1.0, 1.0) == ORDINARY
    assert not run.outcome.undone and not run.outcome.decision.updates_masks


def test_an_update_may_take_the_place_of_the_optimizers_step() -> None:
    run = Run()
    run.step(1.0, 1.0), run.step(1.0, 1.0)
    assert run.step(1.0, 1.0) == [name if name != "step" else "step skipped" for name in ORDINARY]
    assert run.outcome.decision.skip_optimizer and not run.outcome.undone


@pytest.mark.parametrize("scales", [(float("inf"), 1.0), (1.0, float("inf"))])
def test_a_step_that_must_not_count_leaves_the_buffers_of_its_beginning(scales: tuple[float, float]) -> None:
    """Those from before its first micro-batch, whichever of them was bad; and the next step is made as any other."""
    run = Run()
    run.step(1.0, 1.0), run.step(1.0, 1.0)
    before = {name: buffer.clone() for name, buffer in run.model.named_buffers()}
    assert run.step(*scales) == UNDONE
    assert run.outcome.undone and run.train_step.undoing.in_a_row == 1
    assert all(torch.equal(buffer, before[name]) for name, buffer in run.model.named_buffers())
    run.step(1.0, 1.0)
    assert run.outcome.decision.updates_masks and run.train_step.undoing.in_a_row == 0


def test_a_step_that_the_optimizer_leaves_out_leaves_the_buffers_of_its_beginning_too() -> None:
    """As DeepSpeed's does, which tells after its step."""
    run = Run()
    before = {name: buffer.clone() for name, buffer in run.model.named_buffers()}
    run.engine.held_back = True
    for number in (1, 2):
        assert run.step(1.0, 1.0) == ORDINARY
        assert run.outcome.undone and run.train_step.undoing.in_a_row == number
        assert all(torch.equal(buffer, before[name]) for name, buffer in run.model.named_buffers())
    run.engine.held_back = False
    run.step(1.0, 1.0)
    assert not run.outcome.undone and run.train_step.undoing.in_a_row == 0


def test_a_step_is_not_ended_before_its_last_micro_batch() -> None:
    with pytest.raises(AssertionError, match="further micro-batches"):
        Run().step(1.0)
