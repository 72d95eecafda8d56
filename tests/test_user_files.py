"""Paths that a user names, in keys and arguments of every command: `~` is the home folder, what cannot be used one line."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dist_sparse.config import Config, dump_config, load_config, with_values
from dist_sparse.config.tree import leaves
from dist_sparse.data.forgetting import Ranking
from dist_sparse.engines.build import resolve_engine
from dist_sparse.errors import UserError
from dist_sparse.evaluate import main as evaluate
from dist_sparse.export.__main__ import main as export
from dist_sparse.grid.__main__ import main as grid
from dist_sparse.plasticity.__main__ import main as plasticity
from dist_sparse.report.__main__ import main as report
from dist_sparse.results.__main__ import main as results
from dist_sparse.results.runs import find_runs
from dist_sparse.run_folder import RunFolder, choose
from tests import hostile
from tests.command import here
from tests.privileges import unprivileged

PATH_KEYS = ("output", "resume", "data.root", "model.checkpoint", "data.forgetting.ranking", "engine.deepspeed_config")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def refusal(main: Callable[[Sequence[str]], int], *argv: object) -> str:
    outcome = here(main, [str(word) for word in argv])
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def write_run(folder: Path, summary: str | None = None) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(Config()))
    if summary is not None:
        (folder / "summary.json").write_text(summary)
    return folder


FINISHED = {"exit_reason": "finished", "last_top1": 0.5, "best_top1": 0.5, "density": 0.1}


def test_every_key_that_is_a_path_expands_the_home_folder(home: Path) -> None:
    config = load_config(None, dict.fromkeys(PATH_KEYS, "~/a b"))
    assert all(f"{home}/a b" in dump_config(with_values(config, {key: f"{home}/a b"})) for key in PATH_KEYS)
    assert dump_config(config).count(f"{home}/a b") == len(PATH_KEYS)
    named = [key for key in leaves() if any(word in key for word in ("path", "file", "folder", "dir", "checkpoint_"))]
    assert named == ["model.drop_path"], "a new key that is a path, and not of a network, belongs to PATH_KEYS"


def test_files_of_keys_in_the_home_folder(home: Path) -> None:
    (home / "base.yaml").write_text("seed: 3\n")
    (home / "a.yaml").write_text("base: ~/base.yaml\n")
    (home / "b.json").write_text('{"seed": 4}')
    assert load_config("~/a.yaml").seed == 3
    assert load_config(None, ["~/b.json"]).seed == 4


def test_arguments_in_the_home_folder(home: Path) -> None:
    write_run(home / "runs/a", json.dumps(FINISHED))
    (home / "grid.txt").write_text("--name=run --seed=1\n")
    assert here(results, ["~/runs", "--grid=~/grid.txt", "--csv=~/table.csv", "--plot=~/plot.svg"]).code == 0
    assert (home / "table.csv").is_file()
    assert (home / "plot.svg").is_file()
    assert here(report, ["~/runs", "--no-evaluate", "--output=~/report.html"]).code == 0
    assert (home / "report.html").is_file()
    assert here(grid, ["count", "~/grid.txt"]).out == "1\n"
    assert f"--output={home}/x/run\n" in here(grid, ["show", "~/grid.txt", "1", "--into=~/x"]).out
    assert here(grid, ["make", "seed=1,2", "sparsity.density=0.1", "--output=~/new.txt"]).code == 0
    assert (home / "new.txt").is_file()
    for main in (evaluate, export, plasticity):
        assert refusal(main, "~/runs/a", "--checkpoint=~/x.pt") == f"{home}/x.pt: no such checkpoint"
    assert list(Path().iterdir()) == []


LINES: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [
    (evaluate, ["{}"]),
    (evaluate, ["RUN", "--checkpoint={}"]),
    (export, ["{}"]),
    (export, ["RUN", "--checkpoint={}"]),
    (plasticity, ["{}"]),
    (plasticity, ["RUN", "--checkpoint={}"]),
    (report, ["{}"]),
    (results, ["{}"]),
    (results, ["RUN", "--grid={}"]),
    (grid, ["count", "{}"]),
    (grid, ["make", "--config={}", "seed=1,2"]),
]


@pytest.mark.parametrize(("main", "line"), LINES, ids=[f"{main.__module__} {' '.join(line)}" for main, line in LINES])
def test_whatever_lies_there(home: Path, main: Callable[[Sequence[str]], int], line: list[str]) -> None:
    run = write_run(home / "run")
    with hostile.places(home / "elsewhere") as places:
        for path in places.values():
            assert str(path)[:200] in refusal(main, *(word.replace("RUN", str(run)).format(path) for word in line))


def unwritable(home: Path, what: str) -> Path:
    """A place for a file that, with :func:`spoil`, cannot be written."""
    return home / ("x" * 300 if what == "long" else "config/x" if what == "below a file" else "x")


def spoil(file: Path, what: str) -> None:
    if what == "folder":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    elif what == "below a file":
        file.parent.touch()


@pytest.mark.parametrize("what", ["folder", "pipe", "long", "below a file", "locked"])
def test_a_report_that_cannot_be_written(home: Path, what: str) -> None:
    run = write_run(home / "run", json.dumps(FINISHED))
    spoil(file := unwritable(home, what), what)
    with unprivileged(home, mode=0o555) if what == "locked" else nullcontext():
        line = refusal(report, run, "--no-evaluate", "--overwrite", f"--output={file}")
    assert line.startswith(f"--output={file} ")
    assert what != "pipe" or file.is_fifo()


@pytest.mark.parametrize("option", ["--csv={}.csv", "--plot={}.svg"])
@pytest.mark.parametrize("what", ["folder", "pipe", "long", "below a file", "locked"])
def test_a_table_that_cannot_be_written(home: Path, option: str, what: str) -> None:
    run = write_run(home / "run", json.dumps(FINISHED))
    name = option.format(unwritable(home, what))
    spoil(file := Path(name.partition("=")[2]), what)
    with unprivileged(home, mode=0o555) if what == "locked" else nullcontext():
        outcome = here(results, [str(run), name])
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {name} cannot be written: ")
    assert outcome.err.count("\n") == 1
    assert what != "pipe" or file.is_fifo()


def test_words_that_no_terminal_gives(home: Path) -> None:
    for main in (evaluate, export, plasticity, report, results, grid):
        for word in ("\udcff", "a\0b", "a\nb"):
            assert " is not understood: should be UTF-8 text on one line" in refusal(main, word)
        assert "; --help tells what is accepted" in refusal(main)


@pytest.mark.parametrize("what", ["file", "pipe", "below a file", "long", "locked", "locked inside", "logs are a file"])
def test_an_output_folder_that_cannot_be_had(home: Path, what: str) -> None:
    path = home / ("x" * 300 if what == "long" else "x/y" if what == "below a file" else "x")
    if what in ("file", "below a file"):
        (home / "x").touch()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "locked inside":
        (path / "checkpoints").mkdir(parents=True)
    elif what == "logs are a file":
        path.mkdir()
        (path / "logs").touch()
    locked = {"locked": home, "locked inside": path / "checkpoints"}.get(what)
    with unprivileged(locked, mode=0o555) if locked else nullcontext(), pytest.raises(UserError) as caught:
        choose(with_values(Config(), {"output": str(path)}))
    assert str(caught.value).startswith(f"output={path} cannot be written: ")


def test_the_mark_of_a_preemption_that_cannot_be_removed(home: Path) -> None:
    """Job scripts would take it for a new one, so the run does not begin."""
    (home / "run" / "preempted").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run/preempted cannot be removed: "):
        RunFolder(path=home / "run").forget_preemption()


def test_what_cannot_be_removed_does_not_hide_why_a_run_ended(home: Path) -> None:
    (home / "run" / "logs" / "rank_0.log").mkdir(parents=True)
    RunFolder(path=home / "run").discard_if_unused()
    assert (home / "run" / "logs" / "rank_0.log").exists()


def test_no_folder_for_runs(home: Path) -> None:
    Path("runs").touch()
    with pytest.raises(UserError, match=r"output=runs cannot be written: "):
        choose(Config())


SUMMARIES = {
    "deep": "[" * 5000,
    "a list": "[1]",
    "cut off": '{"exit_reason": "finis',
    "a key twice": '{"exit_reason": "finished", "exit_reason": "crashed"}',
    "a huge number": '{"last_top1": 1' + "0" * 5000 + "}",
    "bytes": "\udcff",
}


@pytest.mark.parametrize("text", SUMMARIES.values(), ids=SUMMARIES)
def test_a_damaged_summary_is_one_line(home: Path, text: str) -> None:
    run = write_run(home / "run")
    (run / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert f"{run}/summary.json" in refusal(results, run)


@pytest.mark.parametrize("value", ["high", True, None, [0.5], 10**400, float("nan"), float("inf"), {"a": 1}])
def test_a_figure_that_is_none_does_not_count(home: Path, value: object) -> None:
    (run,) = find_runs([write_run(home / "run", json.dumps({**FINISHED, "last_top1": value}))])
    assert run.problem == "finished without last_top1"


@pytest.mark.parametrize("value", [["finished"], {"a": 1}, 3, None, "two\nlines"])
def test_an_exit_reason_that_is_none_does_not_count(home: Path, value: object) -> None:
    run = write_run(home / "run", json.dumps({**FINISHED, "exit_reason": value}))
    (write_run(home / "other") / "metrics.csv").write_bytes(b"\0\xff garbage")
    outcome = here(results, [str(run), str(home / "other")])
    assert outcome.code == 0
    assert "not counted, 2 of 2 runs:" in outcome.out


@pytest.mark.parametrize("content", hostile.JSON.values(), ids=hostile.JSON)
def test_settings_of_deepspeed(home: Path, content: bytes) -> None:
    (home / "bad.json").write_bytes(content)
    engine = load_config(None, {"engine.name": "deepspeed", "engine.deepspeed_config": "~/bad.json"}).engine
    if content in (hostile.JSON["a NUL"], hostile.JSON["half a character"]):
        resolve_engine(engine)  # sound JSON; what it says is looked at later
        return
    with pytest.raises(UserError) as caught:
        resolve_engine(engine)
    assert str(caught.value).startswith(f"engine.deepspeed_config={home}/bad.json")
    assert "\n" not in str(caught.value)


def test_rankings(home: Path) -> None:
    for content in ({}, {"data": "x", "counts": 3}, {"data": "x", "counts": torch.zeros(2)}, [1], "text"):
        torch.save(content, home / "bad.pt")
        with pytest.raises(UserError, match=r"bad\.pt is not a ranking that a run has saved$"):
            Ranking.load(home / "bad.pt", data="x", size=2)
    with hostile.places(home / "elsewhere") as places:
        for path in places.values():
            with pytest.raises(UserError, match=r"data\.forgetting\.ranking="):
                Ranking.load(path, data="x", size=2)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"--name=a --seed=1\n--name='b\n", 2),
        (b"--name=a\n--name=\xff\n", 2),
        ("--name=a\n".encode("utf-16"), 1),
        (b"--name=a\n--name=b --model.kwargs=" + b"[" * 300 + b"\n--name=c --seed\n", 3),
        (b"--name=a\0\n", 1),
        (b"--name=" + b"x" * 300 + b"\n", 1),
        (b"--name=a {\n", 1),
    ],
)
def test_grid_files(home: Path, content: bytes, line: int) -> None:
    (home / "grid.txt").write_bytes(content)
    assert refusal(grid, "count", "~/grid.txt").startswith(f"{home}/grid.txt:{line}: ")


def test_a_grid_without_an_end(home: Path) -> None:
    numbers = ",".join(map(str, range(1000)))
    assert refusal(grid, "make", f"seed={numbers}", f"train.epochs={numbers}").startswith("the lists combine to 1000000 runs; ")
    (home / "grid.txt").write_text("--name=a\n")
    assert refusal(grid, "show", "~/grid.txt", "9" * 5000).endswith("holds runs 1 to 1")
