"""Signals to one rank of several, and to torchrun."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import ROOT, metrics, read_until, start, words
from tests.distributed import cases
from tests.distributed.world import World
from tests.values import LOGGED, TINY_VIT

pytestmark = pytest.mark.waits

RUN = {
    **LOGGED,
    "resume": "auto",
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "train.epochs": 2,
    "train.batch_size": 128,
    "train.eval_batch_size": 36,
    "train.precision": "fp64",
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
}
"""22 steps in 2 epochs; 5 batches of validation on each of two ranks."""
DYING_RANK = str(ROOT / "tests/distributed/dying_rank.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def whole(worlds: Callable[[int], World], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert [outcome.code for outcome in worlds(2).run(cases.command, {**RUN, "output": folder})] == [0, 0]
    return folder


@pytest.mark.parametrize(("place", "nth", "stopped_at"), [("start", 1, 0), ("step", 5, 6), ("validation", 2, 11)])
def test_the_signal_of_one_rank_stops_all_at_one_step(
    worlds: Callable[[int], World], tmp_path: Path, whole: Path, place: str, nth: int, stopped_at: int
) -> None:
    values = {**RUN, "output": tmp_path}
    first, other = worlds(2).run(cases.command_asked, values, place=place, nth=nth, rank=1)
    assert (first.code, other.code) == (75, 75)
    assert f"stopped by SIGTERM after step {stopped_at} of 22" in first.out
    assert (tmp_path / "preempted").read_text() == f"SIGTERM at step {stopped_at}\n"
    assert [outcome.code for outcome in worlds(2).run(cases.command, values)] == [0, 0]
    assert metrics(tmp_path) == metrics(whole)


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_with_the_same_run(
    worlds: Callable[[int], World], tmp_path: Path, whole: Path, sizes: tuple[int, int]
) -> None:
    values = {**RUN, "output": tmp_path}
    before, after = sizes
    assert {each.code for each in worlds(before).run(cases.command_asked, values, place="step", nth=8, rank=0)} == {75}
    outcomes = worlds(after).run(cases.command, values)
    assert {each.code for each in outcomes} == {0}
    assert f"WARNING: resuming on {after} ranks a run of {before}: " in outcomes[0].err
    parts, reference = metrics(tmp_path), metrics(whole)
    assert [row["sparsity/mask_digest"] for row in parts] == [row["sparsity/mask_digest"] for row in reference]
    for name in ("train/loss", "val/loss"):
        assert [float(row[name]) for row in parts if row[name]] == pytest.approx(
            [float(row[name]) for row in reference if row[name]], rel=1e-9
        )


def test_a_changed_world_that_cannot_share_the_batch_is_refused(worlds: Callable[[int], World], tmp_path: Path) -> None:
    values = {**RUN, "train.batch_size": 129, "output": tmp_path}
    assert [each.code for each in worlds(1).run(cases.command_asked, values, place="step", nth=2, rank=0)] == [75]
    outcomes = worlds(2).run(cases.command, values)
    assert [each.code for each in outcomes] == [2, 2]
    assert "train.batch_size=129 does not divide by 2 ranks" in outcomes[0].err


def test_torchrun_restarts_a_run_whose_rank_was_killed(tmp_path: Path, whole: Path) -> None:
    """Without output and resume=auto, too: the restarted ranks go on in the folder that they had begun."""
    values = {**RUN, "resume": "never", "checkpoint.every": "2 steps"}
    process = start([*TORCHRUN, "--max-restarts=1", DYING_RANK, *words(values)], cwd=tmp_path)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "going on after step 6 of 22" in said
    (folder,) = (tmp_path / "runs").iterdir()
    assert metrics(folder) == metrics(whole)


def test_so_do_the_torchruns_of_two_nodes(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count restarts each for itself; after one, rank 1 may be the other node's, which has not counted any yet."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
    launcher = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1"]
    launcher += ["--rdzv-backend=c10d", f"--rdzv-endpoint={place}"]
    values = {**RUN, "checkpoint.every": "2 steps", "output": tmp_path}
    nodes = [start([*launcher, DYING_RANK, *words(values)]) for _ in range(2)]
    said = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert any("going on after step 6 of 22" in text for text in said)
    assert metrics(tmp_path) == metrics(whole)


def test_sigterm_to_torchrun_stops_its_ranks_in_good_order(worlds: Callable[[int], World], tmp_path: Path, whole: Path) -> None:
    values = {**RUN, "output": tmp_path}
    process = start([*TORCHRUN, "-m", "dist_sparse.train", *words(values)])
    said = read_until(process, "step 4/22 ")
    process.send_signal(signal.SIGTERM)
    said += process.communicate()[0]
    assert process.returncode == 1
    assert "stopped by SIGTERM after step " in said
    assert (tmp_path / "preempted").read_text().startswith("SIGTERM at step ")
    assert [outcome.code for outcome in worlds(2).run(cases.command, values)] == [0, 0]
    assert metrics(tmp_path) == metrics(whole)
