"""Pruning-plasticity probes on several ranks (on one: tests/plasticity)."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_sparse.plasticity.__main__ import main
from tests.command import train_here
from tests.distributed import cases
from tests.distributed.world import World
from tests.values import LOGGED, TINY_VIT

VALUES = {
    **LOGGED,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "train.epochs": 1,
    "train.batch_size": 64,
    "train.precision": "fp64",
    "sparsity.density": 0.3,
}


@pytest.mark.parametrize("method", ["dense", "rigl"])
def test_several_ranks_give_the_same_table(worlds: Callable[[int], World], tmp_path: Path, method: str) -> None:
    """In double precision and without batch statistics not only those of a world agree, but worlds of any size."""
    folder = tmp_path / "run"
    assert train_here({**VALUES, "sparsity.method": method, "output": folder}).code == 0
    argv = [str(folder), "--rate=0.5", "--gradient-batches=3"]
    for size in (1, 2):
        outcomes = worlds(size).run(cases.call, main, argv)
        assert [outcome.code for outcome in outcomes] == [0] * size
        assert all((outcome.out, outcome.err) == ("", "") for outcome in outcomes[1:]), "only the first rank speaks"
    one, two = (list(csv.DictReader(path.open(newline=""))) for path in sorted((folder / "plasticity").glob("*.csv")))
    assert len(one) == 6
    assert one == two
    if method == "rigl":
        assert len({row["mask_digest"] for row in one}) == 6


def test_a_mistake_is_told_once(worlds: Callable[[int], World], tmp_path: Path) -> None:
    outcomes = worlds(2).run(cases.call, main, [str(tmp_path), "--rate=0.5"])
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert [len(outcome.errors) for outcome in outcomes] == [1, 0]
