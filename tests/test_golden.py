"""Short runs give the losses, masks, densities and costs on record; see tests/golden/record.py."""

from pathlib import Path

import pytest

from dist_sparse.sparsity.methods import METHODS
from tests.golden.record import FOLDER, RUNS, history, read


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_it_was(name: str, tmp_path: Path) -> None:
    (*recorded, costs), (*found, found_costs) = read(name), history(RUNS[name], tmp_path)
    exact = ("step", "masks", "density")
    assert [[row.get(key) for key in exact] for row in found] == [[row.get(key) for key in exact] for row in recorded]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (found, recorded)]
    assert len(losses[0]) >= 40
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert found_costs == costs


def test_every_method_has_its_file() -> None:
    assert {values["sparsity.method"] for values in RUNS.values()} == set(METHODS)


def test_every_file_has_its_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(RUNS)
