"""A disk that is full from the start: every command says so in one line, and ends at once, on one rank and on two."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from dist_sparse.data.pack import main as pack
from dist_sparse.export.__main__ import main as export
from dist_sparse.grid.__main__ import main as grid
from dist_sparse.plasticity.__main__ import main as probe
from dist_sparse.report.__main__ import main as report
from dist_sparse.results.__main__ import main as results
from dist_sparse.train import main
from tests.command import PATIENCE, ROOT, here, start, train_here, words
from tests.distributed import forks
from tests.full_disk import small_disk
from tests.photos import write_photos
from tests.test_completeness import SMALL

pytestmark = pytest.mark.waits

NO_SPACE = "No space left on device"


@contextlib.contextmanager
def full_disk(folder: Path, room: int = 1 << 16) -> Iterator[Path]:
    """A disk on which no byte more can be written. Within the context something may be put there before: see ``fill``."""
    with small_disk(folder, room) as disk:
        yield disk


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("wandb", ["disabled", "offline"])
def test_training_ends_at_once(tmp_path: Path, ranks: int, wandb: str) -> None:
    if (ranks, wandb) == (2, "offline"):
        pytest.skip("the same as on one rank")
    with full_disk(tmp_path / "disk") as disk:
        fill(disk)
        argv = words({**SMALL, "tracking.wandb": wandb, "output": disk / "run"})
        if ranks == 1:
            process = start(["-m", "dist_sparse.train", *argv])
            said, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 2, said
        else:
            ended = forks.live(ranks, main, argv, folder=tmp_path)
            said = "".join(rank.said for rank in ended)
            assert [rank.code for rank in ended] == [2] * ranks, said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert str(disk / "run") in errors[0]
    assert errors[0].endswith(f"cannot be written: {NO_SPACE}")
    assert "Traceback" not in said
    assert "Logging error" not in said


def test_what_training_says_may_go_to_a_full_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dist_sparse.train", *words({**SMALL, "train.epochs": 1, "output": tmp_path})]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_commands_end_with_one_line(tmp_path: Path) -> None:
    assert train_here({**SMALL, "train.epochs": 1, "output": tmp_path / "run"}).code == 0
    photos = write_photos(tmp_path / "photos", train=3, val=1)
    with full_disk(tmp_path / "disk", 1 << 21) as disk:
        shutil.copytree(tmp_path / "run", disk / "run")
        fill(disk)
        commands: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [
            (export, [str(disk / "run")]),
            (probe, [str(disk / "run"), "--probe=prune_uniform", "--rate=0.5"]),
            (probe, [str(disk / "run"), "--probe=prune_uniform", "--rate=0.5", "--recovery-epochs=0"]),
            (report, [str(disk / "run"), "--no-evaluate"]),
            (results, [str(disk / "run"), f"--csv={disk / 'table.csv'}"]),
            (results, [str(disk / "run"), f"--plot={disk / 'plot.png'}"]),
            (grid, ["make", f"--config={ROOT}/configs/digits/rigl.yaml", "--seed=1,2", f"--output={disk / 'grid.txt'}"]),
            (pack, [str(photos), str(disk / "shards"), "--format=webdataset"]),
        ]
        for command, argv in commands:
            outcome = here(command, argv)
            assert outcome.code == 2, (argv, outcome)
            (line,) = outcome.errors
            assert line.endswith(f"cannot be written: {NO_SPACE}"), (argv, line)
            assert "Traceback" not in outcome.err
