"""A table after a kill and a resume is the table of a run that never stopped."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_sparse.tracking.table import Table
from tests.full_disk import file_size_limit

COLUMNS = ("step", "epoch", "train/loss", "val/top1", "digest")
Log = list[tuple[int, dict[str, float | int | str]]]


def write(path: Path, log: Log, resume_step: int | None = None) -> None:
    table = Table(path, COLUMNS, resume_step)
    for step, values in log:
        table.merge(step, values)
    table.close()


def test_the_values_of_a_step_make_one_row_in_fixed_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    write(
        path,
        [
            (0, {"val/top1": 0.1}),
            (5, {"train/loss": 1 / 3}),
            (5, {"digest": 2**62, "train/loss": 1e-320}),
            (7, {"digest": "a,b"}),
        ],
    )
    assert path.read_text() == (
        "step,epoch,train/loss,val/top1,digest\n"  #
        "0,,,0.1,\n"
        "5,,1e-320,,4611686018427387904\n"
        '7,,,,"a,b"\n'
    )


@given(value=st.floats(allow_nan=False))
@settings(max_examples=50)
def test_floats_read_back_equal(tmp_path: Path, value: float) -> None:
    write(tmp_path / "t.csv", [(1, {"train/loss": value})])
    text = (tmp_path / "t.csv").read_text().splitlines()[1].split(",")[2]
    assert float(text) == value
    assert repr(float(text)) == repr(value)


def test_a_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = Table(path, COLUMNS, None)
    for expected, values in [("1,,0.5,,\n", {"train/loss": 0.5}), ("1,,0.5,1.0,\n", {"val/top1": 1.0})]:
        table.merge(1, values)
        assert path.read_text().endswith("\n" + expected)
    assert path.read_text().count("\n") == 2
    table.close()


def test_a_shorter_text_takes_the_place_of_a_longer_one_whole(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [(1, {"train/loss": 1 / 3}), (1, {"train/loss": 1.0})])
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == ["1,,1.0,,"]


LOGS = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.dictionaries(st.sampled_from(COLUMNS[1:]), st.floats(allow_nan=False) | st.integers(), max_size=3),
    ),
    max_size=12,
).map(lambda log: sorted(log, key=lambda entry: entry[0]))


@given(
    log=LOGS,
    resume_step=st.integers(0, 12),
    killed_at=st.integers(0, 13),
    junk=st.sampled_from(["", "9", "12,0.5,", "\0\0\0", "\xff"]),
)
@settings(max_examples=100)
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, log: Log, resume_step: int, killed_at: int, junk: str) -> None:
    """A checkpoint at ``resume_step``, a kill at a later step in the middle of a line."""
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    write(whole, log)
    write(broken, [entry for entry in log if entry[0] <= max(killed_at, resume_step)])
    with broken.open("a", encoding="latin-1") as file:
        file.write(junk)
    write(broken, [entry for entry in log if entry[0] > resume_step], resume_step)
    assert broken.read_bytes() == whole.read_bytes()


def test_half_a_line_is_dropped_even_if_it_looks_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write(path, [(1, {"digest": 1}), (2, {"digest": 12})])
    path.write_bytes(path.read_bytes()[: -len("2\n")])
    write(path, [], resume_step=2)
    assert path.read_text().splitlines()[1:] == ["1,,,,1"]


def test_values_logged_again_at_the_resumed_step_join_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write(path, [(1, {"digest": 1}), (2, {"train/loss": 0.5})])
    write(path, [(2, {"val/top1": 0.9})], resume_step=2)
    assert path.read_text().splitlines()[1:] == ["1,,,,1", "2,,0.5,0.9,"]


@pytest.mark.parametrize("content", [None, "", "not,a\ntable,1\n", "step,epoch\n"])
def test_a_missing_or_foreign_file_begins_anew(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_text(content)
    write(path, [(4, {"digest": 1})], resume_step=3)
    assert path.read_text() == "step,epoch,train/loss,val/top1,digest\n4,,,,1\n"


def test_a_new_run_begins_anew(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [(1, {})])
    write(tmp_path / "t.csv", [])
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1


def test_steps_do_not_go_back_and_names_are_known(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv", COLUMNS, None)
    table.merge(2, {})
    with pytest.raises(AssertionError, match="step 1 comes after step 2"):
        table.merge(1, {})
    with pytest.raises(AssertionError, match="no column val/top2"):
        table.merge(3, {"val/top2": 1.0})
    table.close()


def test_a_full_disk_is_one_warning_and_loses_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.csv"
    table = Table(path, COLUMNS, None)
    table.merge(1, {"train/loss": 1.0})
    with file_size_limit(path.stat().st_size + 5):
        for step in (2, 3, 3, 4):
            table.merge(step, {"digest": step})
        assert path.read_text().splitlines()[1] == "1,,1.0,,"
    table.merge(4, {"train/loss": 0.5})
    table.merge(5, {"digest": 5})
    table.close()
    assert path.read_text().splitlines()[1:] == ["1,,1.0,,", "2,,,,2", "3,,,,3", "4,,0.5,,4", "5,,,,5"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "File too large" in record.message
