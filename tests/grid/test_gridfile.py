"""Grid files: what is written reads back, whatever its characters, and a run's number is its place among the runs."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_sparse.grid import GridRun, read_grid
from dist_sparse.grid.__main__ import main
from dist_sparse.grid.gridfile import format_grid
from tests.command import PATIENCE, ROOT, Outcome, here

LINES = """\
# three runs
--name=first --seed=1

  # and two more
'--name=second' --model.kwargs='{width: 2, "x y": [1, 2]}' --data.root="/a b/c"
\t--name third --seed=3
"""
SECOND = ["--name=second", '--model.kwargs={width: 2, "x y": [1, 2]}', "--data.root=/a b/c"]
ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1)


def grid(*argv: object) -> Outcome:
    return here(main, [str(word) for word in argv])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "grid.txt"
    path.write_text(LINES)
    return path


@settings(max_examples=30)
@given(st.lists(st.lists(ANY_TEXT, max_size=3), min_size=1, max_size=4))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, roots: list[list[str]]) -> None:
    runs = [
        GridRun(f"run{number}", (*(f"--data.root={root}" for root in some), f"--name=run{number}"))
        for number, some in enumerate(roots)
    ]
    path = tmp_path_factory.getbasetemp() / "round_trip.txt"
    path.write_text(format_grid(runs, ["a heading", ""]), encoding="utf-8", newline="")
    assert read_grid(path) == runs


def test_comments_and_empty_lines_are_no_runs(file: Path) -> None:
    assert [run.name for run in read_grid(file)] == ["first", "second", "third"]
    assert grid("count", file).out == "3\n"


def test_a_run_s_number_counts_from_1(file: Path) -> None:
    firsts = [grid("show", file, number).out.split("\n")[0] for number in (1, 2, 3)]
    assert firsts == ["--name=first", "--name=second", "--name"]


def test_bash_reads_the_arguments_as_they_are(file: Path) -> None:
    script = 'mapfile -t words < <("$0" -m dist_sparse.grid show "$1" 2); printf "<%s>\\n" "${words[@]}"'
    command = ["bash", "-c", script, sys.executable, str(file)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.splitlines() == [f"<{word}>" for word in SECOND]


def test_a_run_can_have_a_folder_of_its_own(file: Path) -> None:
    shown = grid("show", file, 2, "--into=runs/my grid").out.splitlines()
    assert shown == [*SECOND, "--output=runs/my grid/second", "--resume=auto"]


def test_reading_does_not_wait_for_torch(file: Path) -> None:
    code = "import sys; from dist_sparse.grid.__main__ import main; main(['count', sys.argv[1]]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=PATIENCE)
    assert done.stdout.split() == ["3", "False"]


MISTAKES: list[tuple[str | None, Sequence[object], str]] = [
    (None, ["count", "FILE"], "FILE: no such grid file"),
    (LINES, ["show", "FILE", 0], "0: no such run; FILE holds runs 1 to 3"),
    (LINES, ["show", "FILE", 4], "4: no such run; FILE holds runs 1 to 3"),
    (LINES, ["show", "FILE", "1.0"], "1.0: no such run; FILE holds runs 1 to 3"),
    (LINES, ["show", "FILE", "-1"], "-1: no such run; FILE holds runs 1 to 3"),
    (LINES, ["show", "FILE", "1", "--onto=runs"], "'--onto=runs' is not understood; --help tells what is"),
    ("# nothing\n\n", ["count", "FILE"], "FILE: holds no runs; a line is the arguments of a run, such as --config=FILE"),
    ("--seed=1\n", ["count", "FILE"], "FILE:1: has no --name=NAME; each run needs a name of its own"),
    ("--name=a\n#\n--name=a\n", ["count", "FILE"], "FILE:3: --name=a is that of line 1, too; names should differ"),
    ("--name='a\n", ["count", "FILE"], "FILE:1: No closing quotation"),
    ("--name=../a\n", ["count", "FILE"], "FILE:1: name=../a (from the given values): should be of letters, digits"),
    ("--name=a # one\n", ["count", "FILE"], "FILE:1: '#' is not understood; write --key=value"),
    ("--name=a --output=b\n", ["count", "FILE"], "FILE:1: sets output, which what starts the runs decides on"),
    ("--name=\xe9\n", ["count", "FILE"], "FILE:1: cannot be read: not UTF-8 text"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "argv", "beginning"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, text: str | None, argv: Sequence[object], beginning: str) -> None:
    path = tmp_path / "grid.txt"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    outcome = grid(*(path if word == "FILE" else word for word in argv))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: {beginning.replace('FILE', str(path), 1)}")
    assert outcome.err.count("\n") == 1
