"""Packed weights under DeepSpeed: the masks and losses of masked weights, and runs that go on."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import cases, zero_cases
from tests.distributed.test_deepspeed import COMMON, EVERY_OTHER, zero
from tests.distributed.test_packed import PACKED
from tests.distributed.test_resume import SELDOM, goes_on_as_if_nothing_had_been
from tests.distributed.world import World

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")

Worlds = Callable[[int], World]
RUN: dict[str, Any] = {**COMMON, **EVERY_OTHER, "data.limit": 512, "execution.compute": "dense"}
"""8 steps; both storages multiply by whole weights, so that sums are taken in one order but for norms."""
RIGL: dict[str, Any] = {**RUN, "sparsity.method": "rigl"}
TOGETHER = {"train.accumulation": 2, "train.clip_norm": 0.5, "train.ema": 0.8}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "static, stage 1": ({**RUN, "sparsity.method": "static", **zero(1)}, 2),
    "set, stage 2": ({**RUN, "sparsity.method": "set", "optim.name": "adamw", "optim.lr": 1e-3, **zero(2)}, 2),
    "rigl, stage 0": ({**RIGL, **TOGETHER, **zero(0)}, 2),
    "rigl, stage 1, one rank": ({**RIGL, **TOGETHER, **zero(1)}, 1),
    "rigl, stage 1": ({**RIGL, **TOGETHER, "sparsity.update.form": "itop", **zero(1)}, 2),
    "rigl, stage 2": ({**RIGL, **TOGETHER, **zero(2)}, 4),
    "rigl, stage 2, offload": ({**RIGL, "train.clip_norm": 0.5, "sparsity.update.form": "itop", **zero(2, offload="cpu")}, 2),
    "by sensitivity": ({**RIGL, "sparsity.update.growth": "random", "sparsity.update.removal": "taylor", **zero(2)}, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_masks_and_losses_are_those_of_masked_weights(worlds: Worlds, tmp_path: Path, case: str) -> None:
    """In fp32, which is all that DeepSpeed trains; a moment in another's place shows in the second digit."""
    values, size = CASES[case]
    masked = worlds(size).run(cases.train, values, str(tmp_path / "masked"))[0]
    assert values["sparsity.method"] == "static" or masked.updates >= 2
    for trained in worlds(size).run(cases.train, {**values, **PACKED}, str(tmp_path / "packed")):
        assert (trained.initial, trained.digests) == (masked.initial, masked.digests)
        for column in ("train/loss", "val/loss", "val/ema_loss"):
            assert trained.column(column) == pytest.approx(masked.column(column), rel=1e-5)


@pytest.mark.parametrize(("size", "stage"), [(2, 0), (3, 1), (3, 2)])
def test_runs_go_on_bit_for_bit(worlds: Worlds, tmp_path: Path, size: int, stage: int) -> None:
    values = {**SELDOM, **PACKED, **zero(stage), "train.ema": 0.9}
    goes_on_as_if_nothing_had_been(worlds(size), tmp_path, values, kills=(6,))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_all_that_is_held_follows_the_masks(worlds: Worlds, tmp_path: Path, stage: int) -> None:
    """Gradients too, which no method needs that keeps its numbers: its updates take the place of the step, or come after it."""
    values = {**RUN, **PACKED, "sparsity.method": "set", "optim.name": "adamw", **zero(stage)}
    assert worlds(2).run(zero_cases.follow, values, str(tmp_path)) == [[], []]


def test_another_storage_is_refused_when_a_run_goes_on(worlds: Worlds, tmp_path: Path) -> None:
    """DeepSpeed's own files hold the optimizer's state in the sizes of the parameters."""
    values = {**SELDOM, **zero(1)}
    for was, now in (("masked", "packed"), ("packed", "masked")):
        run = {**values, "output": tmp_path / was, "execution.storage": was}
        assert {outcome.code for outcome in worlds(2).run(cases.command, run, interrupt_after=4)} == {130}
        first, other = worlds(2).run(cases.command, {**run, "execution.storage": now})
        assert (first.code, other.code) == (2, 2)
        (line,) = first.errors
        assert f"cannot resume with execution.storage={now} a run with {was}: engine.zero.stage=1 keeps" in line
