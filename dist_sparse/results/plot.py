"""The plot of results: accuracy against the density reached, a line with error bars for each method."""

import io
from collections.abc import Sequence

from dist_sparse.config.tree import short_names
from dist_sparse.results.groups import DENSITY, METHOD, Group
from dist_sparse.results.table import shown

Point = tuple[float, float, float]
"""Density reached (or another figure), mean of the last top-1, its deviation (NaN without one); the accuracies in percent."""


def lines(groups: Sequence[Group], over: str = "density") -> dict[str, list[Point]]:
    """The points of each line by its label, rising in a figure: groups that differ in nothing but the density asked for."""
    found: dict[str, list[Point]] = {}
    for group in groups:
        top1, place = group.figures["last_top1"], group.figures[over]
        if top1 is None or place is None:
            continue
        short = short_names(group.keys)
        others = [f"{short[key]} {shown(value)}" for key, value in group.keys.items() if key not in (METHOD, DENSITY)]
        label = ", ".join([shown(group.keys[METHOD]), *others])
        deviation = float("nan") if top1.deviation is None else 100 * top1.deviation
        found.setdefault(label, []).append((place.mean, 100 * top1.mean, deviation))
    return {label: sorted(points) for label, points in found.items()}


def draw(groups: Sequence[Group], format: str) -> bytes:
    """The plot as a file of a format such as png, pdf or svg."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="density reached", ylabel="last top-1, %", xscale="log")
    drawn = lines(groups)
    for label, points in drawn.items():
        densities, top1, deviations = zip(*points, strict=True)
        axes.errorbar(densities, top1, yerr=deviations, label=label, marker="o", capsize=3, elinewidth=1)
    ticks = _apart(sorted({density for points in drawn.values() for density, _, _ in points}))
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=format, dpi=150)
    return file.getvalue()


def _apart(densities: Sequence[float]) -> list[float]:
    """Those far enough from the one before to have a tick of their own."""
    ticks: list[float] = []
    for density in densities:
        if not ticks or density > 1.1 * ticks[-1]:
            ticks.append(density)
    return ticks
