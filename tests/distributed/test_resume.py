"""Runs that are killed and go on, on so many ranks that the order of a sum matters, equal the uninterrupted one bit for bit."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import metrics
from tests.distributed import cases
from tests.distributed.world import World
from tests.values import LOGGED, SMALL_RESNET

Worlds = Callable[[int], World]
RUN: dict[str, Any] = {
    **LOGGED,
    **SMALL_RESNET,
    "resume": "auto",
    "train.epochs": 1,
    "train.batch_size": 120,
    "train.accumulation": 2,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
    "checkpoint.every": "1 steps",
    "checkpoint.keep": 1,
}
"""11 steps; with three ranks and more each of them sums three numbers and more."""
SELDOM = {**RUN, "checkpoint.every": "3 steps"}
"""For DeepSpeed, whose checkpoints take longer than its steps."""


def goes_on_as_if_nothing_had_been(world: World, folder: Path, values: dict[str, Any], kills: tuple[int, ...]) -> None:
    """Compare what was logged at every step, and the last weights and optimizer state."""
    assert {outcome.code for outcome in world.run(cases.command, {**values, "output": folder / "whole"})} == {0}
    parts = {**values, "output": folder / "parts"}
    for step in kills:
        assert {outcome.code for outcome in world.run(cases.command, parts, interrupt_after=step)} == {130}
    outcomes = world.run(cases.command, parts)
    assert {outcome.code for outcome in outcomes} == {0}
    assert f"going on after step {kills[-1]} of 11" in outcomes[0].out
    assert metrics(folder / "parts") == metrics(folder / "whole")
    states = [torch.load(folder / run / "checkpoints" / "step_00000011.pt") for run in ("parts", "whole")]
    for part in ("state_dict", "optimizer"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)


@pytest.mark.parametrize(("size", "exchange"), [(2, "masked"), (3, "dense"), (3, "masked"), (4, "masked")])
def test_of_ddp(worlds: Worlds, tmp_path: Path, size: int, exchange: str) -> None:
    goes_on_as_if_nothing_had_been(worlds(size), tmp_path, {**RUN, "engine.exchange": exchange}, kills=(2, 3, 8))


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_of_deepspeed(worlds: Worlds, tmp_path: Path, stage: int) -> None:
    values = {**SELDOM, "engine.name": "deepspeed", "engine.zero.stage": stage}
    goes_on_as_if_nothing_had_been(worlds(3), tmp_path, values, kills=(6,))


def test_of_masks_that_were_taken_over(worlds: Worlds, tmp_path: Path) -> None:
    """GraNet's ramp begins at their density, which a run that goes on has from its own checkpoint."""
    world = worlds(2)
    assert {outcome.code for outcome in world.run(cases.command, {**RUN, "output": tmp_path / "first"})} == {0}
    values = {
        **RUN,
        "model.checkpoint": tmp_path / "first",
        "sparsity.init": "checkpoint",
        "sparsity.method": "granet",
        "sparsity.density": 0.1,
        "sparsity.ramp.end": "90%",  # still on its way where the run is killed
    }
    goes_on_as_if_nothing_had_been(world, tmp_path, values, kills=(4,))


def test_of_keys_around_the_weights(worlds: Worlds, tmp_path: Path) -> None:
    """Each of them has something of its own that goes on: draws, slow weights, an average, rates by layer."""
    values = {
        **RUN,
        "train.bce": "true",
        "train.ema": 0.9,
        "train.ema_warmup": "true",
        "train.grad_checkpointing": "true",
        "model.drop_path": 0.2,
        "optim.layer_decay": 0.8,
        "optim.lookahead": "true",
        "optim.lookahead_k": 2,
    }
    goes_on_as_if_nothing_had_been(worlds(2), tmp_path, values, kills=(3, 8))


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")
@pytest.mark.parametrize("stage", [1, 3])
def test_of_keys_around_deepspeed_s_weights(worlds: Worlds, tmp_path: Path, stage: int) -> None:
    values = {
        **SELDOM,
        "engine.name": "deepspeed",
        "engine.zero.stage": stage,
        "train.bce": "true",
        "train.grad_checkpointing": "true",
        "model.drop_path": 0.2,
        "optim.layer_decay": 0.8,
    }
    goes_on_as_if_nothing_had_been(worlds(2), tmp_path, values, kills=(6,))
