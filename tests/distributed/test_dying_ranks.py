"""A rank that dies is told by its name, on real processes; under torchrun, once they train."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.command import train_here, words
from tests.distributed import first_rank_dies, forks
from tests.distributed.test_runs import SMALL
from tests.endings import Watched, watch

pytestmark = pytest.mark.waits


def ranks_of(run: Watched) -> dict[int, int]:
    """The ranks' processes: rank -> process id."""
    environments = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in run.children()}
    named = {pid: [entry for entry in entries if entry.startswith(b"RANK=")] for pid, entries in environments.items()}
    return {int(entries[0][5:]): pid for pid, entries in named.items() if entries}


def test_a_killed_rank_is_named(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    values = {**SMALL, "train.batch_size": 63, "train.epochs": 400, "output": tmp_path / "run"}
    run = watch([*torchrun, "-m", "dist_sparse.train", *words(values)]).until("step 12/")
    try:
        pid = ranks_of(run)[1]
        os.kill(pid, signal.SIGKILL)
        assert run.end() == 1
    finally:
        run.kill()
    assert_named(1, pid, run.said)
    assert run.ended_promptly, f"{run.silence:.1f} s after its last word:\n{run.said}"


@pytest.mark.parametrize(
    ("place", "more"),
    [
        ("before they meet", {}),
        ("in the group", {}),
        ("after they met", {}),
        ("in a step", {"engine.name": "deepspeed", "engine.zero.stage": 2}),
    ],
    ids=["before they meet", "in the group", "after they met", "under ZeRO"],
)
def test_the_rank_that_is_left_names_the_dead_one_and_ends(tmp_path: Path, place: str, more: dict[str, object]) -> None:
    argv = words({**SMALL, **more, "output": tmp_path / "run"})
    dead, left = forks.live(2, first_rank_dies.main, place, argv, folder=tmp_path)
    assert (dead.code, left.code) == (-signal.SIGKILL, 1), left.said
    assert_named(0, dead.pid, left.said)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert train_here({**SMALL, "train.epochs": 1, "output": folder}).code == 0
    return folder


def test_so_does_one_that_evaluates(trained: Path, tmp_path: Path) -> None:
    dead, left = forks.live(2, first_rank_dies.evaluating, "", [str(trained), "--checkpoint=last"], folder=tmp_path)
    assert (dead.code, left.code) == (-signal.SIGKILL, 1), left.said
    assert_named(0, dead.pid, left.said)


def test_a_mistake_that_one_rank_meets_as_it_evaluates_ends_all_and_is_told_once(trained: Path, tmp_path: Path) -> None:
    argv = [str(trained), "--checkpoint=last"]
    first, other = forks.live(2, first_rank_dies.evaluating, "there is no room", argv, folder=tmp_path)
    assert (first.code, other.code) == (2, 2), other.said
    assert (first.said, other.said) == ("error: there is no room\n", "")


def assert_named(rank: int, pid: int | None, said: str) -> None:
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert re.match(rf"error: rank {rank} \(process {pid} on \S+\) has died: ", line)
    assert "resume=auto goes on from the last checkpoint" in line
    assert "gloo" not in said
