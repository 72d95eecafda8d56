"""Ranks that see other data sets, as nodes with a copy each do of which one lacks a file, are refused before they train."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dist_sparse import evaluate
from dist_sparse.plasticity import __main__ as plasticity
from tests.command import Outcome, train_here
from tests.distributed import cases
from tests.distributed.world import World
from tests.photos import write_photos
from tests.values import LOGGED, SMALL_RESNET

VALUES = {
    **LOGGED,
    **SMALL_RESNET,
    "data.name": "image_folder",
    "data.backend": "torchvision",
    "data.workers": 0,
    "data.image_size": 32,
    "train.epochs": 1,
    "train.batch_size": 4,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
}


@pytest.fixture
def copies(tmp_path: Path) -> list[Path]:
    """A copy of the data set for each of two ranks."""
    return [write_photos(tmp_path / name, train=4, val=2) for name in ("one", "other")]


def check_refused(outcomes: list[Outcome], differing: str) -> None:
    """All ranks end alike, and the first says why, naming the rank."""
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert [outcome.errors for outcome in outcomes] == [
        [f"rank 1's data set is not that of rank 0: it has {differing}; all ranks must see the same files under data.root"],
        [],
    ]


def test_a_file_less_on_one_rank_is_told_before_training(
    worlds: Callable[[int], World], copies: list[Path], tmp_path: Path
) -> None:
    values: dict[str, Any] = {**VALUES, "output": tmp_path / "run"}
    (copies[1] / "train" / "flower" / "1.JPEG").unlink()
    outcomes = worlds(2).run(cases.each_its_own, cases.command, [{**values, "data.root": root} for root in copies])
    check_refused(outcomes, "train_size 7 (rank 0's 8), 3 training samples of class flower (rank 0's 4)")
    assert not (tmp_path / "run").exists()


def test_another_file_on_one_rank_is_told(worlds: Callable[[int], World], copies: list[Path], tmp_path: Path) -> None:
    values: dict[str, Any] = {**VALUES, "output": tmp_path / "run"}
    (copies[1] / "train" / "flower" / "1.JPEG").rename(copies[1] / "train" / "flower" / "9.JPEG")
    outcomes = worlds(2).run(cases.each_its_own, cases.command, [{**values, "data.root": root} for root in copies])
    check_refused(outcomes, "other training samples of class flower, or another order of them")


@pytest.mark.parametrize("main", [evaluate.main, plasticity.main], ids=["evaluate", "plasticity"])
def test_so_for_figures_of_a_run(worlds: Callable[[int], World], copies: list[Path], tmp_path: Path, main: Any) -> None:
    assert train_here({**VALUES, "data.root": copies[0], "output": tmp_path / "run"}).code == 0
    (copies[1] / "val" / "temple" / "0.JPEG").unlink()
    words = [[str(tmp_path / "run"), f"--data.root={root}"] for root in copies]
    outcomes = worlds(2).run(cases.each_its_own, partial(cases.call, main), words)
    check_refused(outcomes, "val_size 3 (rank 0's 4), 1 validation samples of class temple (rank 0's 2)")
