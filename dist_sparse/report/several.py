"""The report of several runs: accuracy over density and over training FLOPs, and what became of each run."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from dist_sparse.config.tree import short_names
from dist_sparse.inputs import is_there
from dist_sparse.report import NAME, words
from dist_sparse.report.drawing import COLOURS, HEIGHT, Picture, new_figure, plain
from dist_sparse.report.page import Cell, Facts, Link, Page, Section, Table
from dist_sparse.report.status import status_of
from dist_sparse.results.groups import DENSITY, METHOD, Figure, Group, group
from dist_sparse.results.plot import Point, lines
from dist_sparse.results.runs import FIGURES, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

DENSE = "dense"
"""The method whose runs are drawn as a line across."""
_HEADINGS = ("last top-1", "best top-1", "density reached", "inference FLOPs", "training FLOPs")
_OF_RUNS = ("last_top1", "best_top1", "density", "train_flops_relative")
"""What the table of runs has room for."""


def page_of_runs(runs: Sequence[Run], place: Path) -> Page:
    """The report of runs, to lie in the folder ``place``, from which its links lead to theirs."""
    groups = group(runs)
    finished = sum(len(each.runs) for each in groups)
    what = f"{len(runs)} runs of {len(groups)} settings, of which {finished} have finished and are counted"
    models = sorted({f"{run.values['model.name']} on {run.values['data.name']}" for run in runs})
    pictures = [
        _picture(groups, "density", "density", "density reached, %"),
        _picture(groups, "training_flops", "train_flops_relative", "FLOPs of training, % of dense training"),
    ]
    told = (
        "Last top-1 on the validation set: the mean over seeds, with the sample standard deviation. A line joins runs that "
        "differ in nothing but density and seed; the dense network's is drawn across."
    )
    return Page(
        title=f"{len(runs)} runs",
        lines=[what, "; ".join(models)],
        sections=[
            Section(title="", parts=[_facts(groups)]),
            Section(title="Accuracy", parts=[told, *pictures] if finished else ["No run has finished yet."]),
            Section(title="Settings", parts=[_settings(groups), *_notes(groups)]),
            Section(title="Runs", parts=[_runs(groups, place)]),
        ],
    )


def _facts(groups: Sequence[Group]) -> Facts:
    rows = []
    counted = [each for each in groups if each.figures["last_top1"] is not None]
    for name, chosen in (("dense", [each for each in counted if _is_dense(each)]), ("best sparse", [*counted])):
        others = [each for each in chosen if name == "dense" or not _is_dense(each)]
        if others:
            top = max(others, key=lambda each: each.figures["last_top1"].mean)  # pyright: ignore[reportOptionalMemberAccess]
            note = "last top-1" if name == "dense" else _setting(top)
            rows.append((name, _percent(top.figures["last_top1"]), note))
    unfinished = sum(len(each.unfinished) for each in groups)
    rows.append(("runs", str(sum(len(each.runs) for each in groups)), "finished"))
    rows.append(("not counted", str(unfinished), "see the table of runs"))
    return Facts(rows=rows)


def _is_dense(each: Group) -> bool:
    return each.keys[METHOD] == DENSE


def _setting(each: Group) -> str:
    short = short_names(each.keys)
    return ", ".join(f"{short[key]} {words.value(value)}" for key, value in each.keys.items() if value is not None)


def _picture(groups: Sequence[Group], name: str, figure: str, label: str) -> Picture:
    alt = f"Top-1 over {label}, a line for each method"
    return Picture(name=f"accuracy_over_{name}", alt=alt, make=lambda: _plot(groups, figure, label))


def _plot(groups: Sequence[Group], figure: str, label: str) -> "Drawing":
    from matplotlib.ticker import FuncFormatter, NullFormatter

    drawing = new_figure(height=HEIGHT + 0.06 * len(groups))
    axes = drawing.add_subplot(xlabel=label, ylabel="last top-1, %", xscale="log")
    drawn = lines([each for each in groups if not _is_dense(each)], figure)
    for number, (name, points) in enumerate(drawn.items()):
        places, top1, deviations = zip(*points, strict=True)
        apart = _apart(number, len(drawn)) if figure == "density" else 1.0
        axes.errorbar(
            [100 * place * apart for place in places],
            top1,
            yerr=deviations,
            label=plain(name),
            color=COLOURS[number % len(COLOURS)],
            linestyle="-" if number < len(COLOURS) else "--",
            marker="o",
            markersize=5,
            capsize=3,
            elinewidth=1,
            linewidth=1.5,
        )
    for name, points in lines([each for each in groups if _is_dense(each)], figure).items():
        for _, top1, deviation in points:
            axes.axhline(top1, color="#59636e", linestyle=":", label=plain(name))
            if deviation == deviation:
                axes.axhspan(top1 - deviation, top1 + deviation, color="#59636e", alpha=0.12, linewidth=0)
    axes.set_xticks(_ticks(drawn))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return drawing


def _apart(number: int, of: int) -> float:
    """A factor that sets the lines a little apart, so that error bars at one density do not hide one another."""
    return 1.012 ** (number - (of - 1) / 2)


def _ticks(drawn: Mapping[str, Sequence[Point]]) -> list[float]:
    """The places of the points, as far as their numbers do not run into one another."""
    ticks: list[float] = []
    for place in sorted({100 * place for points in drawn.values() for place, _, _ in points}):
        if not ticks or place > 1.15 * ticks[-1]:
            ticks.append(place)
    return ticks


def _settings(groups: Sequence[Group]) -> Table:
    keys = short_names(groups[0].keys)
    rows = []
    for each in groups:
        total = len(each.runs) + len(each.unfinished)
        count = f"{len(each.runs)} of {total}" if each.unfinished else str(total)
        rows.append([*map(words.value, each.keys.values()), count, *_figures(each)])
    return Table(head=[*keys.values(), "n", *_HEADINGS], rows=rows, texts=len(keys))


def _figures(each: Group) -> list[str]:
    """A group's figures as text; of densities and FLOPs, which seeds hardly move, the mean alone."""
    return [_percent(figure, deviation=name.endswith("top1")) for name, figure in each.figures.items()]


def _percent(figure: Figure | None, *, deviation: bool = True) -> str:
    if figure is None:
        return words.NONE
    if deviation and figure.deviation is not None:
        return f"{100 * figure.mean:.2f} ± {100 * figure.deviation:.2f}%"
    return f"{figure.mean:.2%}"


def _notes(groups: Sequence[Group]) -> list[str]:
    return [
        f"{_setting(each)}: several runs have seed {', '.join(map(str, each.repeated_seeds))}, so n seeds are fewer."
        for each in groups
        if each.repeated_seeds
    ]


def _runs(groups: Sequence[Group], place: Path) -> Table:
    keys = [key for key in groups[0].keys if key not in (METHOD, DENSITY)]
    short = short_names([METHOD, DENSITY, *keys])
    rows: list[list[Cell]] = []
    for each in groups:
        for run in sorted([*each.runs, *each.unfinished], key=lambda run: (run.values["seed"], str(run.path))):
            told = [words.value(each.keys[key]) for key in (METHOD, DENSITY, *keys)]
            figures = [words.percent(run.figure(name)) for name in _OF_RUNS]
            state = status_of(run).word if run.problem else "finished"
            rows.append([_link(run, place), state, *told, str(run.values["seed"]), *figures, _time(run)])
    named = dict(zip(FIGURES, _HEADINGS, strict=True))
    head = ["run", "state", *short.values(), "seed", *(named[name] for name in _OF_RUNS), "wall time"]
    return Table(head=head, rows=rows, texts=2 + len(short))


def _time(run: Run) -> str:
    return words.duration(run.figure("wall_seconds"))


def _link(run: Run, place: Path) -> Link:
    """To the run's own report if it has one, or else to its folder."""
    target = run.path / NAME if is_there(run.path / NAME) else run.path
    return Link(text=run.values["name"], href=quote(os.path.relpath(target.resolve(), place.resolve())))
