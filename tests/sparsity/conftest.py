"""A process group of one, the reference vectors, and a short way to train a small sparse model for a few steps."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.optimizer_state import parameter_state
from dist_sparse.engines.precision import Precision
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.methods.base import Decision, Method
from dist_sparse.sparsity.methods.build import begin, plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.step import TrainStep
from tests import process_group

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    with process_group.of_one():
        yield


@pytest.fixture(scope="session")
def vectors() -> Callable[[str], dict[str, Any]]:
    """``vectors(name)`` reads a file of reference results."""
    folder = Path(__file__).parent.parent / "vectors"
    return lambda name: json.loads((folder / f"{name}.json").read_text())


@dataclass(kw_only=True)
class SmallRun:
    """An engine and a method, and what the trainer steps them by."""

    engine: DDPEngine
    method: Method
    optimizer: torch.optim.Optimizer
    train_step: TrainStep
    number: int = 0
    """Steps made."""

    def step(
        self,
        images: Tensor,
        targets: Tensor,
        *,
        on_averaged: Callable[[], None] = lambda: None,
        on_gradients: Callable[[], None] = lambda: None,
    ) -> Decision:
        """One optimizer step on one micro-batch.

        ``on_averaged`` is called when the gradients are averaged, and ``on_gradients`` when the method is done with them.
        """
        self.number += 1
        after_backward = self.method.after_backward

        def observed(step: int) -> Decision:
            on_averaged()
            decision = after_backward(step)
            on_gradients()
            return decision

        with mock.patch.object(self.method, "after_backward", observed):
            self.train_step.forward_backward(self.number, images, targets)
            return self.train_step.optimizer_step(self.number).decision

    def per_weight_state(self, name: str) -> dict[str, Tensor]:
        """The optimizer's state of a layer that has the weight's shape."""
        weight = self.engine.model.get_parameter(name)
        state = parameter_state(self.optimizer)[weight]
        return {key: value for key, value in state.items() if isinstance(value, Tensor) and value.shape == weight.shape}


@pytest.fixture(scope="module")
def small_run(group: None) -> Callable[..., SmallRun]:
    """``small_run(model, optimizer, config, **keys)``: the model, wrapped and with its initial masks applied."""

    def build(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: SparsityConfig,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
        precision: str = "fp32",
        total_steps: int = 1000,
        remask: bool = False,
        seed: int = 0,
    ) -> SmallRun:
        engine = DDPEngine(model, optimizer, loss, precision=Precision(name=precision, device=CPU))
        run = RunFacts(seed=seed, steps_per_epoch=total_steps, total_steps=total_steps, rank=0, world_size=1, device=CPU)
        config = resolve(config)
        method = begin(plan_method(config, sparse_layers(model, config.keep_dense), run)).bind(engine, remask=remask)
        method.start()
        return SmallRun(engine=engine, method=method, optimizer=optimizer, train_step=TrainStep(engine, method))

    return build
