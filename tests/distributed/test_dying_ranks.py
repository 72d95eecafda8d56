"""A rank that dies is told by its name, on real processes; under torchrun, once they train."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.command import words
from tests.distributed import forks, stillborn_rank
from tests.distributed.test_runs import SMALL
from tests.endings import Watched, watch

pytestmark = pytest.mark.waits

ZERO = {"engine.name": "deepspeed", "engine.zero.stage": 2}


def ranks_of(run: Watched) -> dict[int, int]:
    """The ranks' processes: rank -> process id."""
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in run.children()}
    named = {pid: [entry for entry in entries if entry.startswith(b"RANK=")] for pid, entries in environments.items()}
    return {int(entries[0][5:]): pid for pid, entries in named.items() if entries}


@pytest.mark.parametrize(
    ("size", "dying", "more"), [(3, 1, {"train.batch_size": 63}), (2, 0, ZERO)], ids=["second of three", "first, ZeRO"]
)
def test_a_killed_rank_is_named(tmp_path: Path, size: int, dying: int, more: dict[str, object]) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    values = {**SMALL, "train.epochs": 400, "output": tmp_path / "run", **more}
    run = watch([*torchrun, "-m", "dist_sparse.train", *words(values)]).until("step 12/")
    try:
        pid = ranks_of(run)[dying]
        os.kill(pid, signal.SIGKILL)
        assert run.end() == 1
    finally:
        run.kill()
    (line,) = [line for line in run.said.splitlines() if line.startswith("error: ")]
    assert re.match(rf"error: rank {dying} \(process {pid} on \S+\) has died: ", line)
    assert "resume=auto goes on from the last checkpoint" in line
    assert "gloo" not in run.said
    assert run.ended_promptly, f"{run.silence:.1f} s after its last word:\n{run.said}"


@pytest.mark.parametrize("place", ["before they meet", "after they met"])
def test_a_rank_that_dies_at_the_start_is_named(tmp_path: Path, place: str) -> None:
    argv = words({**SMALL, "output": tmp_path / "run"})
    dead, left = forks.live(2, stillborn_rank.main, place, argv, folder=tmp_path)
    assert (dead.code, left.code) == (-signal.SIGKILL, 1), left.said
    (line,) = [line for line in left.said.splitlines() if line.startswith("error: ")]
    assert re.match(rf"error: rank 0 \(process {dead.pid} on \S+\) has died: ", line)
