"""Short runs give the losses, masks, densities and costs on record; see tests/golden/record.py."""

from pathlib import Path
from typing import Any

import pytest

from dist_sparse.sparsity.methods import METHODS
from tests.golden.record import FOLDER, RUNS, history, read

DENSE_WEIGHTS = {"dense", *(name for name, method in METHODS.items() if method.dense_weights)}
"""Methods that have no packed weights."""


def compare(name: str, found: list[dict[str, Any]]) -> None:
    """A run's history with the one on record."""
    (*recorded, costs), (*rows, found_costs) = read(name), found
    exact = ("step", "masks", "density")
    assert [[row.get(key) for key in exact] for row in rows] == [[row.get(key) for key in exact] for row in recorded]
    losses = [[row["loss"] for row in each if "loss" in row] for each in (rows, recorded)]
    assert len(losses[0]) >= 40
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert found_costs == costs


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_it_was(name: str, tmp_path: Path) -> None:
    compare(name, history(RUNS[name], tmp_path))


@pytest.mark.parametrize("name", [name for name, values in RUNS.items() if values["sparsity.method"] not in DENSE_WEIGHTS])
def test_a_run_of_packed_weights_is_the_same(name: str, tmp_path: Path) -> None:
    compare(name, history({**RUNS[name], "execution.storage": "packed"}, tmp_path))


def test_every_method_has_its_file() -> None:
    assert {values["sparsity.method"] for values in RUNS.values()} == set(METHODS)


def test_every_file_has_its_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(RUNS)
