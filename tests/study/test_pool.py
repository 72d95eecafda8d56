"""Making runs side by side: all are made, a failed one is told, and none begins after the time is over."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.study.__main__ import arguments
from benchmarks.study.pool import make, make_and_keep
from benchmarks.study.record import read


@dataclass(frozen=True)
class Row:
    number: int


def row_of(number: int) -> Row:
    print("a run's progress")
    if number == 2:
        raise ValueError("two is refused")
    return Row(number)


def say(number: int, row: Row | None) -> str:
    return f"run {number}" if row is None else f"run {number} made"


@pytest.mark.parametrize("jobs", [1, 2])
def test_all_are_made_and_a_failed_one_is_told(jobs: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "rows.csv"
    assert make_and_keep([1, 2, 3, 4], row_of, record, say, jobs) == 1
    assert sorted(row.number for row in read(record, Row)) == [1, 3, 4]
    said = capfd.readouterr()
    assert said.err == "run 2: failed: two is refused\n"
    assert said.out.count(" made\n") == 3
    assert ("progress" in said.out) == (jobs == 1)


@pytest.mark.parametrize("jobs", [1, 2])
def test_none_begins_after_the_time_is_over(jobs: int) -> None:
    assert list(make([1], row_of, jobs, hours=0)) == []


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--seeds", "none"], ["--densities", "0"], ["--densities", "2"]])
def test_a_number_that_cannot_be_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert f"error: argument {words[0]}: {words[1]!r} should be " in capsys.readouterr().err.splitlines()[-1]
