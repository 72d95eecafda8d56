"""Runs that differ in their seeds only are one row: the mean and the sample deviation of each figure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dist_sparse.results.runs import FIGURES, Run

METHOD, DENSITY = "sparsity.method", "sparsity.density"
SAME = (
    "seed", "name", "output", "resume", "data.download", "data.workers", "engine.timeout", "checkpoint.*", "tracking.*",
)  # fmt: skip
"""Keys (patterns) that make no other setting: seeds, where things lie, and what is reported and saved."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Mean over runs, and the sample standard deviation (n - 1) where there are two or more."""

    mean: float
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one setting: ``keys`` are its values of what rows differ in, ``runs`` those that have finished."""

    keys: Mapping[str, Any]
    runs: Sequence[Run]
    unfinished: Sequence[Run]

    @property
    def figures(self) -> dict[str, Figure | None]:
        """By name; None where a run lacks it, or none has finished."""
        return {name: _figure([run.figure(name) for run in self.runs]) for name in FIGURES}

    @property
    def repeated_seeds(self) -> list[int]:
        """Seeds that several of the runs have, which are then not independent."""
        seeds = [run.values["seed"] for run in self.runs]
        return sorted({seed for seed in seeds if seeds.count(seed) > 1})


def group(runs: Sequence[Run]) -> list[Group]:
    """The runs by setting, ordered by method and falling density.

    Rows are told apart by method, density, and the further keys that differ between runs that agree on those before them; a
    key that only follows from the method, such as a default of its own, is not among them.
    """
    members: dict[tuple[str, ...], list[Run]] = {}
    keys = _keys(runs)
    for run in runs:
        members.setdefault(_identity(run, keys), []).append(run)
    groups = [
        Group(
            keys={key: _value(some[0], key) for key in keys},
            runs=[run for run in some if run.problem is None],
            unfinished=[run for run in some if run.problem is not None],
        )
        for some in members.values()
    ]
    return sorted(groups, key=lambda each: [_order(key, value) for key, value in each.keys.items()])


def _keys(runs: Sequence[Run]) -> list[str]:
    chosen = [METHOD, DENSITY]
    for key in runs[0].values:
        if key in chosen or any(fnmatchcase(key, pattern) for pattern in SAME):
            continue
        if len({_identity(run, [*chosen, key]) for run in runs}) > len({_identity(run, chosen) for run in runs}):
            chosen.append(key)
    return chosen


def _identity(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(repr(_value(run, key)) for key in keys)


def _value(run: Run, key: str) -> Any:
    """A key's value; of ``data.root`` only where it says which data set it is: small sets are the same wherever they lie."""
    return None if key == "data.root" and run.values["data.name"] != "image_folder" else run.values[key]


def _order(key: str, value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not number, (-value if key == DENSITY else value) if number else 0, "" if number else str(value)


def _figure(values: Sequence[float | None]) -> Figure | None:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Figure(mean=statistics.fmean(known), deviation=statistics.stdev(known) if len(known) > 1 else None)
