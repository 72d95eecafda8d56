"""A small run, what is reported of it, and what its files say."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_sparse.report.__main__ import main
from dist_sparse.report.drawing import Picture
from dist_sparse.report.single import page_of_run
from dist_sparse.results.runs import find_runs
from tests.command import Outcome, here
from tests.report.html_page import Found, parse_page
from tests.values import LOGGED, TINY_VIT

VALUES: dict[str, Any] = {
    **LOGGED,
    "name": "small",
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 4,
    "train.batch_size": 256,
    "optim.name": "adamw",
    "optim.lr": 0.01,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
}


def report(*words: object) -> Outcome:
    return here(main, [str(word) for word in words])


def page_of(folder: Path, *overrides: str, evaluate: bool = False) -> Found:
    """What the run's report says. Its figures, which take most of the time, are not drawn."""
    page = page_of_run(find_runs([folder])[0], overrides, evaluate=evaluate)
    texts = [replace(each, parts=[part for part in each.parts if not isinstance(part, Picture)]) for each in page.sections]
    return parse_page(replace(page, sections=texts).html())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row[name])) for row in rows_of(folder / "metrics.csv") if row[name]]
