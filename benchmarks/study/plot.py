"""The plots of a study: accuracy over density and over the FLOPs of training, a line for each method; and of ablations."""

from collections.abc import Mapping
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.study.cases import Case
from benchmarks.study.runs import Row
from benchmarks.study.statistics import estimate
from benchmarks.study.table import groups, top1
from dist_sparse.report.drawing import COLOURS, Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"active_density": "density (fraction of the weights that are active)", "train_flops": "FLOPs of training / dense"}
_STYLES = (("-", "o"), ("--", "s"), (":", "^"))
"""Lines and markers, each with all colours in turn."""
_MARGIN = 1.0
"""Points of accuracy below the lowest mean of static masks, which is the least that a method should reach."""

Lines = Mapping[str, list[tuple[float, float, float]]]
"""By label: place, mean top-1 in percent, half of its 95 % interval (NaN with one seed)."""


def lines(found: Mapping[Case, Row], over: str) -> dict[str, list[tuple[float, float, float]]]:
    """The points of every label, rising along the axis."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for of in groups(found).values():
        for label, group in of.items():
            value = estimate(list(top1(group).values()))
            points.setdefault(label, []).append(
                (mean(getattr(row, over) for row in group.values()), value.mean, value.half_width)
            )
    return {label: sorted(of) for label, of in points.items()}


def picture(found: Mapping[Case, Row], over: str, title: str) -> Picture:
    """The plot over a column of the record, one of :data:`AXES`."""
    name = f"accuracy_over_{over.replace('active_', '').replace('train', 'training')}"
    return Picture(name=name, alt=title, make=lambda: _draw(lines(found, over), over, title))


def _draw(drawn: Lines, over: str, title: str) -> "Figure":
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = new_figure(width=8, height=5.4)
    axes = figure.add_subplot(title=title, xlabel=AXES[over], ylabel="top-1, %", xscale="log")
    sparse = {name: points for name, points in drawn.items() if name != "dense"}
    for number, (name, points) in enumerate(sparse.items()):
        places, means, halves = zip(*points, strict=True)
        line, marker = _STYLES[number // len(COLOURS) % len(_STYLES)]
        apart = 1.008 ** (number - (len(sparse) - 1) / 2) if over == "active_density" else 1.0
        axes.errorbar(
            [place * apart for place in places],
            means,
            yerr=halves,
            label=name,
            color=COLOURS[number % len(COLOURS)],
            linestyle=line,
            marker=marker,
            markersize=3.5,
            capsize=2,
            linewidth=1,
        )
    if "dense" in drawn:
        axes.axhline(drawn["dense"][0][1], label="dense", color="black", linewidth=1)
    least = drawn.get("static") or [point for points in drawn.values() for point in points]
    lowest = min(top1 for _, top1, _ in least)
    axes.set_ylim(bottom=lowest - _MARGIN, top=max(top1 for points in drawn.values() for _, top1, _ in points) + _MARGIN)
    if over == "active_density":
        axes.set_xticks(sorted({round(place, 3) for points in sparse.values() for place, _, _ in points}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def ablation_picture(found: Mapping[Case, Row], name: str, title: str) -> Picture:
    """The plot of one key's values, a panel for each density."""
    return Picture(name=f"ablation_{name}", alt=title, make=lambda: _draw_values(found, title))


def _draw_values(found: Mapping[Case, Row], title: str) -> "Figure":
    of_density = groups(found)
    labels = list(dict.fromkeys(label for of in of_density.values() for label in of))
    figure = new_figure(width=8, height=1.4 + 0.32 * len(labels))
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(of_density), sharey=True, squeeze=False)[0]
    for axes, (density, of) in zip(panels, of_density.items(), strict=True):
        for place, label in enumerate(labels):
            if label in of:
                value = estimate(list(top1(of[label]).values()))
                half = value.half_width if value.n > 1 else 0.0
                axes.errorbar([value.mean], [place], xerr=[half], color=COLOURS[0], marker="o", markersize=4, capsize=3)
        axes.set_title(f"density {density:g}", fontsize=10)
        axes.set_xlabel("top-1, %")
        axes.set_yticks(range(len(labels)), [label.partition(", ")[2] or f"{label} (as shipped)" for label in labels])
        axes.grid(alpha=0.3)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure
