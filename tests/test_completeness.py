"""A run is finished when its last checkpoint and its best are on the disk and whole; else it says so, and can be completed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.evaluate import main as evaluate
from tests.command import PATIENCE, here, metrics, read_until, start, train_here, words
from tests.full_disk import file_size_limit
from tests.values import LOGGED, TINY_VIT

SMALL = {
    **LOGGED,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 3,
    "train.batch_size": 256,
    "optim.lr": 0.05,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "2 steps",
    "checkpoint.every": "2 steps",
    "resume": "auto",
}
"""15 steps, checkpoints of 14 and 15."""


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has happened to. Not to be written to."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train_here({**SMALL, "output": folder}).code == 0
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/checkpoints/best.pt").unlink()  # a name of its own for its file, as in the run's folder
    best = summary(finished)["best_step"]
    source = tmp_path / f"run/checkpoints/step_{best:08d}.pt"
    if source.exists():
        (tmp_path / "run/checkpoints/best.pt").hardlink_to(source)
    else:
        shutil.copy(finished / "checkpoints/best.pt", tmp_path / "run/checkpoints/best.pt")
    return tmp_path / "run"


def test_a_run_whose_checkpoints_never_fit_says_so_and_is_completed_later(tmp_path: Path, finished: Path) -> None:
    with file_size_limit(60_000):
        outcome = train_here({**SMALL, "output": tmp_path})
    last = tmp_path / "checkpoints/step_00000015.pt"
    assert outcome.code == 1
    (line,) = outcome.errors
    assert line.startswith(f"the last checkpoint could not be written: {last}: File too large; ")
    assert "Traceback" not in outcome.err
    assert summary(tmp_path)["exit_reason"] == f"not saved: {line}"
    assert "is finished" not in outcome.out
    again = train_here({**SMALL, "output": tmp_path})
    assert (again.code, summary(tmp_path)["exit_reason"]) == (0, "finished")
    assert metrics(tmp_path) == metrics(finished)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


@pytest.mark.parametrize("which", ["step_00000015.pt", "step_*.pt", "*.pt"])
@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_finished_run_whose_last_checkpoints_are_gone_is_completed(
    copy: Path, finished: Path, which: str, damage: Callable[[Path], object]
) -> None:
    paths = list((copy / "checkpoints").glob(which))
    assert paths
    for path in paths:
        kept = path.read_bytes()
        damage(path)
        if which == "step_00000015.pt" and damage is cut:  # the best may be the same file
            assert (copy / "checkpoints/best.pt").exists()
            del kept
    outcome = train_here({**SMALL, "output": copy})
    if which == "*.pt" and damage is cut:
        assert outcome.code == 2
        assert outcome.errors[0].endswith("checkpoints are damaged; move them away to start anew")
        return
    assert outcome.code == 0, outcome.err
    assert "WARNING: this run was finished, but " in outcome.err
    assert "nothing is left to do" not in outcome.out
    assert metrics(copy) == metrics(finished)
    assert summary(copy)["exit_reason"] == "finished"
    assert (copy / "checkpoints/step_00000015.pt").is_file()
    assert CheckpointStore.load(copy / "checkpoints/best.pt")["progress"]["step"] == summary(copy)["best_step"]
    assert "nothing is left to do" in train_here({**SMALL, "output": copy}).out


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_that_goes_on_from_its_best_at_the_last_step_has_that_step_s_checkpoint(tmp_path: Path, elsewhere: bool) -> None:
    values = {**SMALL, "train.epochs": 1, "output": tmp_path / "run"}  # the only validation is that of step 5, the last
    assert train_here(values).code == 0
    checkpoints = tmp_path / "run/checkpoints"
    for path in checkpoints.glob("step_*.pt"):
        path.unlink()
    if elsewhere:
        values |= {"output": tmp_path / "other", "resume": checkpoints / "best.pt"}
    outcome = train_here(values)
    assert outcome.code == 0, outcome.err
    assert "going on after step 5 of 5" in outcome.out
    assert "nothing is left to do" in train_here({**values, "resume": "auto"}).out


@pytest.mark.parametrize("damage", [Path.unlink, cut])
def test_a_finished_run_without_its_best_checkpoint_gets_one(copy: Path, damage: Callable[[Path], object]) -> None:
    best = copy / "checkpoints/best.pt"
    content = best.read_bytes()
    best.unlink()
    best.write_bytes(content)
    damage(best)
    assert here(evaluate, [str(copy)]).code == 2
    outcome = train_here({**SMALL, "output": copy})
    assert outcome.code == 0
    assert f"WARNING: this run was finished, but {best}: " in outcome.err
    assert CheckpointStore.load(best)["progress"]["step"] == summary(copy)["best_step"]
    assert here(evaluate, [str(copy)]).code == 0


def emptied(path: Path) -> None:
    path.write_bytes(b"")


TABLES = [("metrics.csv", Path.unlink), ("metrics.csv", emptied), ("layers.csv", emptied), ("config.yaml", Path.unlink)]


@pytest.mark.parametrize(("name", "damage"), TABLES)
def test_a_finished_run_gets_its_tables_back(copy: Path, finished: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(copy / name)
    outcome = train_here({**SMALL, "output": copy})
    assert outcome.code == 0
    assert "WARNING: this run was finished, but " in outcome.err
    assert metrics(copy) == metrics(finished)
    assert (copy / "layers.csv").read_bytes() == (finished / "layers.csv").read_bytes()
    assert "nothing is left to do" in train_here({**SMALL, "output": copy}).out


def test_something_else_in_the_place_of_the_best_checkpoint_is_named(copy: Path) -> None:
    folder_in_place(copy / "checkpoints/best.pt")
    outcome = train_here({**SMALL, "output": copy})
    assert outcome.code == 1
    assert "best.pt: Is a directory" in outcome.errors[0]


STOPPED = 12
"""After the validations of steps 5 and 10."""


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that has been interrupted with a best checkpoint whose step checkpoint is gone."""
    folder = tmp_path / "run"
    assert train_here({**SMALL, "output": folder}, interrupt_after=STOPPED + 1).code == 130
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())][1:] == ["step_00000010.pt", "step_00000012.pt"]
    return folder


@pytest.mark.parametrize("damage", [Path.unlink, cut])
@pytest.mark.parametrize("step_is_there", [True, False])
def test_a_lost_best_checkpoint_is_replaced_on_resume(
    stopped: Path, finished: Path, step_is_there: bool, damage: Callable[[Path], object]
) -> None:
    best = stopped / "checkpoints/best.pt"
    step = CheckpointStore.load(best)["progress"]["best_step"]
    content = best.read_bytes()
    best.unlink()
    best.write_bytes(content)
    damage(best)
    of_that_step = stopped / f"checkpoints/step_{step:08d}.pt"
    of_that_step.write_bytes(content)
    if not step_is_there:
        of_that_step.unlink()
    outcome = train_here({**SMALL, "output": stopped})
    assert outcome.code == 0
    (warning,) = [line for line in outcome.err.splitlines() if line.startswith(f"WARNING: {best}: ")]
    expected = f"it is the checkpoint of step {step} again" if step_is_there else "the next validation sets one"
    assert warning.endswith(expected)
    assert CheckpointStore.load(best)["progress"]["step"] == summary(stopped)["best_step"]
    assert metrics(stopped) == metrics(finished)


def test_a_run_goes_back_behind_its_best_and_can_be_resumed_before_it_is_there_again(tmp_path: Path) -> None:
    """The best of a later step is believed, since it is the run's own."""
    values = {**SMALL, "optim.name": "adamw", "optim.lr": 0.003, "checkpoint.keep": 6, "output": tmp_path}
    assert train_here(values).code == 0
    before, best = metrics(tmp_path), summary(tmp_path)["best_step"]
    back = tmp_path / "checkpoints/step_00000006.pt"
    assert CheckpointStore.load(back)["progress"]["best_step"] == 5, "a best that is gone, or this shows nothing"
    outcome = train_here({**values, "resume": back}, interrupt_after=9)
    assert outcome.code == 130, outcome.err
    progress = CheckpointStore.load(tmp_path / "checkpoints/step_00000008.pt")["progress"]
    assert progress["best_step"] == best > progress["step"]
    outcome = train_here(values)
    assert outcome.code == 0, outcome.err
    assert metrics(tmp_path) == before
    assert summary(tmp_path)["best_step"] == best


def test_a_run_from_a_named_checkpoint_has_its_best_in_its_own_folder(stopped: Path, tmp_path: Path) -> None:
    source = stopped / "checkpoints/best.pt"
    outcome = train_here({**SMALL, "optim.lr": 0.05, "output": tmp_path / "second", "resume": source})
    assert outcome.code == 0
    best = CheckpointStore.load(tmp_path / "second/checkpoints/best.pt")["progress"]
    assert best["step"] == summary(tmp_path / "second")["best_step"]


def test_a_folder_that_vanishes_in_training_is_told_and_can_be_completed(tmp_path: Path) -> None:
    values = {**SMALL, "train.epochs": 12, "output": tmp_path / "run"}
    process = start(["-m", "dist_sparse.train", *words(values)])
    read_until(process, "step 20/")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path / 'run'}: config.yaml, metrics.csv, layers.csv are gone" in line
    outcome = train_here(values)
    assert outcome.code == 0
    assert summary(tmp_path / "run")["exit_reason"] == "finished"
    assert (tmp_path / "run/metrics.csv").is_file()
