"""Whole runs on several ranks: interrupted, resumed on as many or on another number, and refused."""

import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import Outcome, metrics, read_until, start, words
from tests.distributed import cases
from tests.distributed.world import World
from tests.values import LOGGED, SMALL_RESNET, TINY_VIT

pytestmark = pytest.mark.waits

COMMON = {**LOGGED, "resume": "auto"}
BATCH_NORM = {
    **COMMON,
    **SMALL_RESNET,
    "tracking.log_every": 3,
    "train.epochs": 2,
    "train.batch_size": 128,
    "train.accumulation": 2,
    "train.ema": 0.8,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
    "checkpoint.every": "2 steps",
}
"""22 steps in 2 epochs. Running statistics differ between ranks, in the network and in the moving average of it."""
SMALL = {
    **COMMON,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "train.epochs": 4,
    "train.batch_size": 64,
    "sparsity.method": "set",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "2 steps",
    "checkpoint.every": "2 steps",
}
"""88 steps in 4 epochs."""


def codes(outcomes: list[Outcome]) -> list[int]:
    return [outcome.code for outcome in outcomes]


@pytest.mark.parametrize("interrupted_at", [5, 13])
def test_a_resumed_run_equals_the_uninterrupted_one(
    worlds: Callable[[int], World], tmp_path: Path, interrupted_at: int
) -> None:
    whole, parts = {**BATCH_NORM, "output": tmp_path / "whole"}, {**BATCH_NORM, "output": tmp_path / "parts"}
    assert codes(worlds(2).run(cases.command, whole)) == [0, 0]
    assert codes(worlds(2).run(cases.command, parts, interrupt_after=interrupted_at)) == [130, 130]
    first, other = worlds(2).run(cases.command, parts)
    assert (first.code, other.code) == (0, 0)
    assert f"going on after step {interrupted_at - 1} of 22" in first.out
    assert (first.err, other.out, other.err) == ("", "", ""), "only the first rank speaks"
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_run_goes_on_on_another_number_of_ranks(worlds: Callable[[int], World], tmp_path: Path) -> None:
    values = {**SMALL, "train.precision": "fp64", "train.epochs": 1, "output": tmp_path / "parts"}
    assert codes(worlds(1).run(cases.command, {**values, "output": tmp_path / "whole"})) == [0]
    assert codes(worlds(4).run(cases.command, values, interrupt_after=8)) == [130] * 4
    outcomes = worlds(2).run(cases.command, values)
    assert codes(outcomes) == [0, 0]
    assert "WARNING: resuming on 2 ranks a run of 4: " in outcomes[0].err
    whole, parts = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert [row["sparsity/mask_digest"] for row in parts] == [row["sparsity/mask_digest"] for row in whole]
    for name in ("train/loss", "val/loss"):
        losses = [[float(row[name]) for row in rows if row[name]] for rows in (whole, parts)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize(
    ("size", "values", "line"),
    [
        (2, {"train.batch_size": 63}, "train.batch_size=63 does not divide by 2 ranks x 1 accumulation steps; 62 or 64 would"),
        (4, {"train.batch_size": 4, "train.accumulation": 3}, "does not divide by 4 ranks x 3 accumulation steps; 12 would"),
        (2, {"sparsity.density": 1e-6}, "cannot be reached"),
        (2, {"optim.lrr": 1}, "optim.lrr: unknown key"),
        (2, {"output": "/dev/null/run"}, "output=/dev/null/run cannot be written"),
    ],
    ids=["batch", "accumulation", "density", "key", "found by the first rank alone"],
)
def test_a_mistake_is_told_once(
    worlds: Callable[[int], World], tmp_path: Path, size: int, values: dict[str, object], line: str
) -> None:
    outcomes = worlds(size).run(cases.command, {**SMALL, "output": tmp_path, **values})
    assert codes(outcomes) == [2] * size
    said = "".join(outcome.err for outcome in outcomes)
    assert line in said
    assert said.count("\n") == 1


def children(pid: int) -> dict[str, int]:
    """The ranks that a launcher has started: rank -> process id."""
    pids = [pid for task in Path(f"/proc/{pid}/task").iterdir() for pid in (task / "children").read_text().split()]
    environments = {int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in pids}
    found = {entry: pid for pid, entries in environments.items() for entry in entries if entry.startswith(b"RANK=")}
    return {entry.decode().removeprefix("RANK="): pid for entry, pid in found.items()}


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def test_a_killed_rank_ends_the_others_and_the_run_can_go_on(worlds: Callable[[int], World], tmp_path: Path) -> None:
    killed_at = random.Random("kill a rank").randrange(10, 40)
    values = {**SMALL, "output": tmp_path / "parts"}
    process = start([*TORCHRUN, "-m", "dist_sparse.train", *words(values)])
    said = read_until(process, f"step {killed_at}/88 ")
    ranks = children(process.pid)
    os.kill(ranks["1"], signal.SIGKILL)
    said += process.communicate()[0]
    assert process.returncode == 1
    assert re.search(rf"exitcode\s*: -9 \(pid: {ranks['1']}\)", said), said
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert codes(worlds(2).run(cases.command, values)) == [0, 0]
    assert codes(worlds(2).run(cases.command, {**values, "output": tmp_path / "whole"})) == [0, 0]
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_a_rank_that_raises_shows_its_traceback(tmp_path: Path) -> None:
    process = start([*TORCHRUN, "tests/distributed/failing_rank.py", *words({**SMALL, "output": tmp_path})])
    said = process.communicate()[0]
    assert process.returncode == 1
    log = (tmp_path / "logs" / "rank_1.log").read_text()
    for text in (said, log):
        assert "in fail_at_step_7" in text
        assert "RuntimeError: rank 1 had enough" in text
    assert "rank 1 had enough" not in (tmp_path / "logs" / "rank_0.log").read_text()
