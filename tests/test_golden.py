"""Short runs give the losses and masks on record; see tests/golden/record.py."""

from pathlib import Path

import pytest

from tests.golden.record import FOLDER, RUNS, history, read


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_what_it_was(name: str, tmp_path: Path) -> None:
    recorded, found = read(name), history(RUNS[name], tmp_path)
    assert [(row["step"], row.get("masks")) for row in found] == [(row["step"], row.get("masks")) for row in recorded]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (found, recorded)]
    assert len(losses[0]) >= 40
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_every_file_has_its_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(RUNS)
