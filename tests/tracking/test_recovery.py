"""What a table has lost is told by step, and comes back from the checkpoint."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.errors import UserError
from dist_sparse.tracking import recovery
from dist_sparse.tracking.table import Table
from tests.command import metrics, train_here
from tests.test_completeness import SMALL

COLUMNS = ("step", "layer", "density")
STEPS = range(2, 42, 2)


def write(path: Path) -> dict[str, Any]:
    """A table of 20 steps of three rows, and what a checkpoint at its end keeps of it."""
    table = Table(path, COLUMNS, None)
    for step in STEPS:
        table.write(step, [{"layer": f"layer{number}", "density": 1 / (step + number)} for number in range(3)])
    state = table.state_dict()
    table.close()
    return state


def resume(
    path: Path, saved: dict[str, Any] | None, columns: tuple[str, ...] = COLUMNS, step: int = STEPS[-1]
) -> dict[str, Any]:
    table = Table(path, columns, step, saved)
    state = table.state_dict()
    table.close()
    return state


def lines_out(path: Path, first: int, last: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:first] + lines[last:]))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "deleted": (Path.unlink, "the file was gone"),
    "emptied": (lambda path: path.write_bytes(b""), "rows of 19 steps from 2 to 38 were gone or changed"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), "rows of 9 steps from 22 to 38 were gone or changed"),
    "random bytes": (lambda path: path.write_bytes(bytes(range(256)) * 99), "rows of 19 steps from 2 to 38 were gone or"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "rows of 19 steps from 2 to 38 were gone or"),
    "a row out": (lambda path: lines_out(path, 5, 6), "rows of step 4 were gone or changed"),
    "steps out": (lambda path: lines_out(path, 5, 12), "rows of 3 steps from 4 to 8 were gone or changed"),
    "not UTF-8": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"\n4,layer1", b"\n4,lay\xe9r1")),
        "rows of step 4 were",
    ),
    "a value": (lambda path: path.write_bytes(path.read_bytes().replace(b"0.25\n", b"0.75\n")), "rows of "),
    "names": (lambda path: lines_out(path, 0, 1), "rows of 19 steps from 2 to 38 were gone or changed"),
    "a quote": (lambda path: path.write_bytes(path.read_bytes().replace(b"\n4,", b'\n"4,', 1)), "rows of "),
}


@pytest.mark.parametrize(("damage", "beginning"), DAMAGES.values(), ids=DAMAGES)
def test_lost_rows_are_named_and_come_back(
    tmp_path: Path, damage: Callable[[Path], object], beginning: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "layers.csv"
    saved = write(path)
    whole = path.read_bytes()
    damage(path)
    assert not path.exists() or path.read_bytes() != whole
    again = resume(path, saved)
    assert path.read_bytes() == whole
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: {beginning}")
    assert record.getMessage().endswith("they are as the checkpoint holds them")
    assert torch.equal(again["end"], saved["end"])


def test_a_whole_table_is_read_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was written after the checkpoint, be it half a line."""
    path = tmp_path / "layers.csv"
    saved = write(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"44,layer0,0.5\n46,lay")
    resume(path, saved)
    assert path.read_bytes() == whole
    assert not caplog.records


def test_values_added_to_the_last_row_after_the_checkpoint_are_no_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.csv"
    table = Table(path, ("step", "loss", "top1"), None)
    table.merge(1, {"loss": 1.0})
    table.merge(2, {"loss": 0.5})
    saved = table.state_dict()
    table.merge(2, {"top1": 0.9})
    table.close()
    resume(path, saved, ("step", "loss", "top1"), 2)
    assert path.read_text().splitlines()[1:] == ["1,1.0,", "2,0.5,"]
    assert not caplog.records


@pytest.mark.parametrize(("damage", "told"), [("end", "rows of "), ("beginning", "before step 30, 1 of 42 rows are lost")])
def test_of_a_long_table_the_end_comes_back_and_the_rest_is_kept(
    tmp_path: Path, damage: str, told: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "KEPT", 400)
    path = tmp_path / "layers.csv"
    saved = write(path)
    assert 0 < saved["rows"] < 60
    whole = path.read_text().splitlines()
    lines_out(path, *((50, 70) if damage == "end" else (4, 5)))
    resume(path, saved)
    now = path.read_text().splitlines()
    assert now == (whole if damage == "end" else whole[:4] + whole[5:])
    (record,) = caplog.records
    assert told in record.getMessage()
    assert torch.equal(resume(path, saved)["end"], saved["end"])


def test_without_a_record_lines_that_are_no_rows_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "layers.csv"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\n4,", b"\nfour,") + b"\xff\xfe\n")
    resume(path, None)
    (record,) = caplog.records
    assert record.getMessage() == f"{path}: 4 lines that are no rows are left out"
    assert path.read_bytes() == b"".join(line for line in whole.splitlines(keepends=True) if not line.startswith(b"4,"))


@pytest.mark.parametrize("with_record", [True, False])
def test_a_table_of_another_version_keeps_the_columns_that_are_known(
    tmp_path: Path, with_record: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "layers.csv"
    saved = write(path) if with_record else (write(path), None)[1]
    resume(path, saved, ("step", "share", "layer"))
    assert path.read_text().splitlines()[:2] == ["step,share,layer", "2,,layer0"]
    (record,) = caplog.records
    assert record.getMessage().endswith("this version does not write the columns density: they are left out")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_something_else_in_a_table_s_place_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "layers.csv")
    with pytest.raises(UserError, match=r"layers\.csv is not a regular file, as the run's table is; move it away$"):
        resume(tmp_path / "layers.csv", None)


def test_a_run_whose_tables_were_damaged_goes_on_as_if_they_were_not(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_here({**SMALL, "output": whole}).code == 0
    assert train_here({**SMALL, "output": broken}, interrupt_after=13).code == 130
    (broken / "metrics.csv").write_bytes(b"")
    os.truncate(broken / "layers.csv", 500)
    outcome = train_here({**SMALL, "output": broken})
    assert outcome.code == 0
    assert "metrics.csv: rows of 12 steps from 0 to 11 were gone or changed" in outcome.err
    assert metrics(broken) == metrics(whole)
    assert (broken / "layers.csv").read_bytes() == (whole / "layers.csv").read_bytes()
    assert json.loads((broken / "summary.json").read_text())["exit_reason"] == "finished"
    (broken / "metrics.csv").unlink()
    (broken / "metrics.csv").mkdir()
    (broken / "summary.json").unlink()
    refused = train_here({**SMALL, "output": broken})
    assert refused.code == 2
    (line,) = refused.errors
    assert line == f"{broken / 'metrics.csv'} is not a regular file, as the run's table is; move it away"
