"""The runs below some folders: what each was asked for, and what came of it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_sparse.config import load_config, to_flat
from dist_sparse.errors import UserError, shown
from dist_sparse.inputs import is_folder, is_there, read_json
from dist_sparse.run_folder import FINISHED, RunFolder

FIGURES = ("last_top1", "best_top1", "density", "inference_flops_relative", "train_flops_relative")
"""What is taken from a summary; all are fractions. Of several sub-nets they are the sparsest one's."""

_LARGEST = 1e9
"""That a figure can be: NaN, infinity and other people's numbers are none."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's folder. ``values`` are its configuration by dotted key."""

    path: Path
    values: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def problem(self) -> str | None:
        """Why the run does not count; None for one that has come to its end."""
        if not self.summary:
            return "no summary: not at its end yet, or killed"
        if self.summary.get("exit_reason") != FINISHED:
            return shown(str(self.summary.get("exit_reason")), 200)
        missing = [name for name in ("last_top1", "best_top1") if self.figure(name) is None]
        if missing and not (missing == ["best_top1"] and self.no_best):
            return f"finished without {' and '.join(missing)}"
        return None

    @property
    def no_best(self) -> str | None:
        """Why the run has no best accuracy, which may be as it should; None if it has one or does not say."""
        reason = self.summary.get("no_best")
        return None if reason is None else shown(reason, 200)

    def figure(self, name: str) -> float | None:
        """A figure of the summary; None where it is missing or not a finite number."""
        value = self.summary.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        return float(value) if abs(value) < _LARGEST else None


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders and below them, each once, in the order of the folders and their names.

    Raises:
        UserError: one of the folders is none or holds no run, or a run's configuration cannot be read.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not is_folder(folder):
            raise UserError(f"{folder}: no such folder")
        paths = list(_run_folders(folder))
        if not paths:
            raise UserError(f"{folder}: holds no runs; the folder of a run has a config.yaml")
        for path in paths:
            found.setdefault(path.resolve(), _read(path))
    return list(found.values())


def _run_folders(folder: Path) -> Iterator[Path]:
    """Stops at a run: what lies below one, such as W&B's files, is part of it."""
    for place, names, _ in os.walk(folder):
        path = Path(place)
        if RunFolder(path=path).used:
            names.clear()
            yield path
        names.sort()


def _read(path: Path) -> Run:
    values = to_flat(load_config(str(path / "config.yaml")))
    file = path / "summary.json"
    summary = read_json(file) if is_there(file) else {}
    if not isinstance(summary, dict):
        raise UserError(f"{file}: should be a JSON object, as a run writes it at its end")
    return Run(path=path, values=values, summary=summary)
