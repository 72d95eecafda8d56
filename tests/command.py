"""The program's commands as a user gives them, in this process or in one of their own."""

import contextlib
import csv
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_sparse.trainer import Hook, Trainer

ROOT = Path(__file__).parents[1]
PATIENCE = 900.0
"""Seconds after which a process hangs, however busy the machine is."""
MACHINE_DEPENDENT = ("time/", "memory/")
"""Prefixes of the metrics that no two runs share."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that tell the user what is wrong."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


def words(values: dict[str, Any]) -> list[str]:
    """Values by dotted key as command line words."""
    return [f"--{key}={value}" for key, value in values.items()]


def here(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> Outcome:
    """Call a command's ``main`` in this process, and take back what it does to logging."""
    out, err = io.StringIO(), io.StringIO()
    with logging_restored(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return Outcome(code, out.getvalue(), err.getvalue())


def train_here(values: dict[str, Any], *, interrupt_after: int | None = None, hooks: Sequence["Hook"] = ()) -> Outcome:
    """``python -m dist_sparse.train`` in this process; Ctrl-C arrives at the end of a step if one is given."""
    from dist_sparse.train import main
    from dist_sparse.trainer import Moment

    def interrupt(moment: Moment, trainer: "Trainer") -> None:
        if moment is Moment.STEP_ENDED and trainer.progress.step == interrupt_after:
            raise KeyboardInterrupt

    return here(partial(main, hooks=[*hooks, interrupt]), words(values))


def start(command: Sequence[str], *, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """A process of its own; its output and its errors come in one stream of lines."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *command], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    """What a process says up to the first line that begins like this, which must come."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if line.startswith(beginning):
            return said
    raise AssertionError(f"{beginning!r} never came:\n{said}")


def metrics(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics as text, without the columns that depend on the machine."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: text for name, text in row.items() if not name.startswith(MACHINE_DEPENDENT)} for row in rows]


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """A run sets up the logging of its process: take that back."""
    root, ours, hook = logging.getLogger(), logging.getLogger("dist_sparse"), sys.excepthook
    handlers, level = list(root.handlers), ours.level
    try:
        yield
    finally:
        for handler in [each for each in root.handlers if each not in handlers]:
            root.removeHandler(handler)
            handler.close()
        ours.setLevel(level)
        logging.captureWarnings(False)
        sys.excepthook = hook
