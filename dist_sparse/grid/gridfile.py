"""How a grid file is read and written.

A line is the arguments of ``python -m dist_sparse.train``, quoted as for a shell; empty lines and those that begin with ``#``
do not count. Runs are numbered from 1 in the order of the file, so that a run's number is its index in a Slurm array.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_sparse.config import load_config
from dist_sparse.config.command_line import read_words
from dist_sparse.config.recipes import shipped
from dist_sparse.errors import UserError
from dist_sparse.inputs import expand, is_there, read_text

_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class GridRun:
    """One line: a name that no other line has, and the arguments as they are, ``--name`` among them."""

    name: str
    arguments: tuple[str, ...]

    def in_folder(self, folder: str) -> tuple[str, ...]:
        """The arguments with a folder of the run's own below ``folder``, where it goes on if it has been cut off before."""
        return (*self.arguments, f"--output={expand(folder) / self.name}", "--resume=auto")


def read_grid(path: Path) -> list[GridRun]:
    """The runs of a grid file; the first has number 1.

    Raises:
        UserError: no such file, a line that is not arguments, two runs of one name, or no runs.
    """
    file = path if is_there(path) else Path(shipped(str(path)) or path)
    lines = read_text(file, path, kind="grid file", most=_MOST_BYTES).split("\n")
    runs: list[GridRun] = []
    places: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            run = _read_line(line)
        except ValueError as error:  # of shlex, or a UserError
            raise UserError(f"{path}:{number}: {error}") from None
        if (first := places.setdefault(run.name, number)) != number:
            raise UserError(f"{path}:{number}: --name={run.name} is that of line {first}, too; names should differ")
        runs.append(run)
    if not runs:
        raise UserError(f"{path}: holds no runs; a line is the arguments of a run, such as --config=FILE --name=NAME --seed=1")
    return runs


def format_grid(runs: Sequence[GridRun], heading: Sequence[str]) -> str:
    """The text of a grid file, with ``heading`` as comments above the runs."""
    lines = [*(f"# {line}" for line in heading), *(shlex.join(run.arguments) for run in runs)]
    return "".join(f"{line}\n" for line in lines)


def _read_line(line: str) -> GridRun:
    arguments = shlex.split(line)
    words = read_words(list(arguments))
    if words.errors:
        raise UserError(words.errors[0])
    names = [each.value for each in words.assignments if each.key == "name"]
    if not names:
        raise UserError("has no --name=NAME; each run needs a name of its own")
    keys = {each.key for each in words.assignments}
    if taken := keys & {"output", "resume"}:
        raise UserError(f"sets {min(taken)}, which what starts the runs decides on, by each one's name")
    return GridRun(load_config(None, {"name": names[-1]}).name, tuple(arguments))
