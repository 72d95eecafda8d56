"""One process at a time trains in a folder; seen on real processes, some of them on what is another host to the kernel."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from filelock import SoftFileLease

from dist_sparse import run
from dist_sparse.config import Config
from dist_sparse.run_folder import RunFolder
from tests.command import ROOT, train_here, words
from tests.endings import Watched, watch
from tests.values import LOGGED

pytestmark = pytest.mark.waits

RUN = {
    **LOGGED,
    "model.name": "test_resnet",
    "data.limit": 100,
    "train.batch_size": 50,
    "sparsity.density": 0.3,
}


def test_a_second_start_leaves_a_run_alone_and_a_killed_one_gives_way_at_once(tmp_path: Path) -> None:
    values = {**RUN, "train.epochs": 2000, "checkpoint.every": "5 steps", "output": tmp_path / "run"}
    first = watch(["-m", "dist_sparse.train", *words(values)]).until("step 10/")
    try:
        for resume in ("auto", str(tmp_path / "run/checkpoints/best.pt")):
            refused = train_here({**values, "resume": resume})
            assert (refused.code, refused.out) == (2, "")
            (line,) = refused.errors
            assert line.startswith(f"output={tmp_path / 'run'} is being trained by process {first.process.pid} on ")
        assert "already holds a run" in train_here({**values, "resume": "never"}).errors[0]
        assert first.process.poll() is None
    finally:
        first.kill()
    assert (tmp_path / "run/lock").exists()
    again = watch(["-m", "dist_sparse.train", *words({**values, "resume": "auto"})])
    try:
        again.until("going on after step ").signal(signal.SIGTERM)
        assert again.end() == 75
    finally:
        again.kill()
    assert not (tmp_path / "run/lock").exists()


def test_of_many_that_follow_a_killed_one_at_once_one_trains(tmp_path: Path) -> None:
    holder(tmp_path).until("mine").kill()
    processes = [holder(tmp_path) for _ in range(6)]
    said = [process.process.stdout.readline() for process in processes if process.process.stdout]
    try:
        assert sum(line == "mine\n" for line in said) == 1, said
        assert sum("is being trained by process " in line for line in said) == 5, said
    finally:
        for process in processes:
            process.kill()


def test_a_holder_on_another_host_that_falls_silent_gives_way_and_ends_when_it_wakes(tmp_path: Path) -> None:
    elsewhere = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")
    if subprocess.run([*elsewhere, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to name a host of its own")
    first = holder(tmp_path, prefix=elsewhere).until("mine")
    refused = holder(tmp_path)
    refused.end()
    assert "may be trained by process" in refused.said
    assert refused.said.splitlines()[-1].startswith(f"output={tmp_path} is being trained by process ")
    first.signal(signal.SIGSTOP)
    second = holder(tmp_path).until(f"{tmp_path} may be trained by process {first.process.pid} on elsewhere").until("mine")
    try:
        first.signal(signal.SIGCONT)
        assert first.end() == 1
        assert "another process trains here" in first.said
        assert first.ended_promptly
        assert second.process.poll() is None
    finally:
        second.kill()
    assert os.listdir(tmp_path) == ["lock"]  # noqa: PTH208


@pytest.mark.parametrize(("batch", "code"), [(50, 0), (1000, 2)], ids=["finished", "refused"])
def test_the_end_of_a_run_gives_its_folder_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, code: int) -> None:
    """By itself, whoever still holds a reference to the lease; and a folder in which nothing has begun is gone."""
    taken, choose_and_lock = [], run.choose_and_lock

    def noted(config: Config) -> tuple[RunFolder, SoftFileLease]:
        taken.append(choose_and_lock(config))
        return taken[-1]

    monkeypatch.setattr(run, "choose_and_lock", noted)
    values = {**RUN, "train.epochs": 1, "train.batch_size": batch, "output": tmp_path / "run"}
    assert train_here(values).code == code
    assert not taken[0][1].is_locked
    assert sorted(path.name for path in tmp_path.glob("run")) == (["run"] if code == 0 else [])


def holder(folder: Path, prefix: tuple[str, ...] = ()) -> Watched:
    """A process that takes the lease of a folder, whose silence is short here, and keeps it."""
    return watch([str(ROOT / "tests/lease_holder.py"), str(folder)], prefix=prefix)
