"""The table of results on the screen, in percent, and as CSV, in fractions."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from dist_sparse.config.tree import short_names
from dist_sparse.results.groups import Figure, Group
from dist_sparse.results.runs import FIGURES

_HEADINGS = {
    "last_top1": "last top-1",
    "best_top1": "best top-1",
    "density": "reached",
    "inference_flops_relative": "inference FLOPs",
    "train_flops_relative": "training FLOPs",
}
_WITH_DEVIATION = ("last_top1", "best_top1")


def as_text(groups: Sequence[Group]) -> str:
    """Aligned columns and, below them, what did not count. Everything from ``last top-1`` on is in percent."""
    keys = short_names(groups[0].keys)
    header = [*keys.values(), "n", *_HEADINGS.values()]
    rows = [header, *(_row(group) for group in groups)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    texts = [not any(isinstance(group.keys[key], (int, float)) for group in groups) for key in keys]
    align = [str.ljust if text else str.rjust for text in [*texts, *[False] * (1 + len(_HEADINGS))]]
    lines = ["  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)) for row in rows]
    return "\n".join([*(line.rstrip() for line in lines), *_notes(groups)])


def as_csv(groups: Sequence[Group]) -> str:
    """A line for each group: its keys, its runs, and mean and deviation of each figure; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    statistics = [f"{name}_{part}" for name in FIGURES for part in ("mean", "deviation")]
    writer.writerow([*groups[0].keys, "n", "unfinished", *statistics])
    for group in groups:
        figures = group.figures.values()
        numbers = [number for each in figures for number in ((each.mean, each.deviation) if each else (None, None))]
        writer.writerow([*map(shown, group.keys.values()), len(group.runs), len(group.unfinished), *numbers])
    return text.getvalue()


def shown(value: Any) -> str:
    """A key's value in a cell."""
    return "" if value is None else str(value)


def _row(group: Group) -> list[str]:
    total = len(group.runs) + len(group.unfinished)
    count = f"{len(group.runs)} of {total}" if group.unfinished else str(total)
    figures = [_percent(figure, deviation=name in _WITH_DEVIATION) for name, figure in group.figures.items()]
    return [*(shown(value) or "-" for value in group.keys.values()), count, *figures]


def _percent(figure: Figure | None, *, deviation: bool) -> str:
    if figure is None:
        return "-"
    if deviation and figure.deviation is not None:
        return f"{100 * figure.mean:.2f} ± {100 * figure.deviation:.2f}"
    return f"{100 * figure.mean:.2f}"


def _notes(groups: Sequence[Group]) -> list[str]:
    unfinished = [run for group in groups for run in group.unfinished]
    total = sum(len(group.runs) for group in groups) + len(unfinished)
    runs = "1 run" if total == 1 else f"{total} runs"
    notes = [f"\n{runs}; mean ± sample standard deviation; top-1, density reached and FLOPs (relative to dense) in percent"]
    if unfinished:
        notes += [f"\nnot counted, {len(unfinished)} of {runs}:", *(f"  {run.path}: {run.problem}" for run in unfinished)]
    for run in (run for group in groups for run in group.runs if run.no_best):
        notes.append(f"\nnote: {run.path} has no best top-1: {run.no_best}")
    for group in groups:
        if seeds := group.repeated_seeds:
            short = short_names(group.keys)
            setting = ", ".join(f"{short[key]} {shown(value)}" for key, value in group.keys.items())
            notes.append(f"\nnote: {setting}: several runs have seed {', '.join(map(str, seeds))}, so n seeds are fewer")
    return notes
