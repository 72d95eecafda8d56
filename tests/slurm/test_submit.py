"""The command that submits: what it makes of the settings and the arguments. It needs no Slurm for that."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import ROOT

GRID = "configs/grids/digits_3x3x3.txt"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.env"
    lines = [f"source {ROOT}/slurm/cluster.env", f"VENV={sys.prefix}", "SBATCH_OPTIONS=(--partition=gpu --time=8:00:00)"]
    path.write_text("\n".join([*lines, "ARRAY_AT_ONCE=4"]))
    return path


def submit(settings: Path, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "slurm/submit.sh"), "--dry-run", *words]
    environment = {"CLUSTER_ENV": str(settings), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "options", "job"),
    [
        (["train", "--seed=1", "--x=5 steps"], [], ["slurm/train.sbatch", "--seed=1", "--x=5 steps"]),
        (["--nodes=2", "train"], ["--nodes=2"], ["slurm/train.sbatch"]),
        (["array", GRID, "--seed=1"], ["--array=1-27%4"], ["slurm/array.sbatch", GRID, "--seed=1"]),
        (["--array=4,17", "array", GRID], ["--array=1-27%4", "--array=4,17"], ["slurm/array.sbatch", GRID]),
        (["sweep", "me/dist_sparse/abc"], ["--array=1-4"], ["slurm/sweep.sbatch", "me/dist_sparse/abc"]),
    ],
)
def test_what_is_asked_for_comes_after_the_settings(
    settings: Path, words: list[str], options: list[str], job: list[str]
) -> None:
    """If an option is given twice, sbatch takes the last."""
    done = submit(settings, *words)
    assert shlex.split(done.stdout) == ["sbatch", "--partition=gpu", "--time=8:00:00", *options, *job], done.stderr


def test_a_grid_may_be_named_from_anywhere(settings: Path) -> None:
    done = submit(settings, "array", "digits_3x3x3.txt", cwd=ROOT / "configs/grids")
    assert done.stdout.endswith(f"slurm/array.sbatch {GRID}\n"), done.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "usage: "),
        (["trian"], "usage: "),
        (["array"], "slurm/submit.sh array needs a grid file"),
        (["array", "nowhere.txt"], "nowhere.txt: no such grid file"),
        (["sweep"], "slurm/submit.sh sweep needs the sweep's path"),
    ],
)
def test_a_mistake_is_one_line(settings: Path, words: list[str], error: str) -> None:
    done = submit(settings, *words)
    assert done.returncode != 0
    assert done.stderr.startswith(f"error: {error}")
    assert done.stderr.count("\n") == 1


def test_no_environment_is_one_line(settings: Path) -> None:
    settings.write_text(settings.read_text() + "\nVENV=/nowhere")
    done = submit(settings, "array", GRID)
    assert done.stderr.startswith(f"error: VENV=/nowhere in {settings} has no torchrun")
