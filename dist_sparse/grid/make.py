"""Make the runs of a grid, and find out before any is started whether all can be."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence

from dist_sparse.config import Config, dump_config, load_config
from dist_sparse.config.schema import plain_name
from dist_sparse.errors import UserError
from dist_sparse.grid.gridfile import GridRun
from dist_sparse.grid.lists import Combination, combine, read_lists

_SEVERAL = 2
"""Ranks: nobody knows yet on how many a run will be started, so nothing is said of keys that one rank would not need."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The runs, and what a user should know before starting them."""

    runs: list[GridRun]
    warnings: list[str]


def make_grid(words: Sequence[str]) -> Grid:
    """The runs that combine the lists of values, each with a name of its own.

    Every run's configuration is loaded, and its method resolved: what is left to be found at a run's start is what depends on
    the data and the model.

    Raises:
        UserError: one line for each mistake, naming the first combination that has it.
    """
    combinations = combine(read_lists(words))
    errors, warnings = _Findings(len(combinations)), _Findings(len(combinations))
    names: dict[str, int] = {}
    same: dict[str, int] = {}
    runs: list[GridRun] = []
    for number, each in enumerate(combinations, start=1):
        try:
            with _warnings() as said:
                config = _load(each)
        except UserError as error:
            errors.add(number, each, str(error).splitlines())
            continue
        warnings.add(number, each, said)
        first = same.setdefault(dump_config(dataclasses.replace(config, name="run")), number)
        if first != number:
            errors.add(number, each, [f"is the same as run {first} ({combinations[first - 1]})"])
        name = each.name(config)
        if names.setdefault(name, number) != number:  # values that differ only in what a name cannot hold
            name = f"{name}-run{number}"
        try:
            plain_name(name)
        except ValueError as error:
            errors.add(
                number,
                each,
                [f"the name that is made of its values {error}; recipes listed in --config are named by their files"],
            )
            continue
        file = [f"--config={each.config_file}"] if each.config_file else []
        runs.append(GridRun(name, (*file, *each.overrides, f"--name={name}")))
    if found := errors.lines():
        raise UserError("\n".join(found))
    return Grid(runs, warnings.lines())


def _load(combination: Combination) -> Config:
    """The configuration of a run, with its method's defaults."""
    name = combination.values.get("name")
    config = load_config(combination.config_file, [*combination.overrides, *([f"--name={name}"] if name else [])])
    from dist_sparse.effects import warn_of_idle  # which take torch, and seconds
    from dist_sparse.sparsity.methods.resolve import resolve

    resolved = dataclasses.replace(config, sparsity=resolve(config.sparsity))
    warn_of_idle(config, _SEVERAL, combination.values.keys())
    return resolved


class _Findings:
    """Messages about runs, each told once: with the first run that it is about, and how many more there are."""

    def __init__(self, total: int) -> None:
        self._total, self._found = total, dict[str, list[tuple[int, Combination]]]()

    def add(self, number: int, combination: Combination, messages: Sequence[str]) -> None:
        for message in messages:
            self._found.setdefault(message, []).append((number, combination))

    def lines(self) -> list[str]:
        lines = []
        for message, about in self._found.items():
            (number, combination), *others = about
            more = f", and {len(others)} more" if others else ""
            lines.append(f"run {number} of {self._total} ({combination}){more}: {message}")
        return lines


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what is warned of meanwhile, instead of showing it."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, handler = logging.getLogger("dist_sparse"), Collect(logging.WARNING)
    propagates = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)
