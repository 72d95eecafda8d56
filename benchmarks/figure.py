"""The figure of ``python -m benchmarks.methods --plot=FILE``: accuracy over density, a line for each method."""

import io
from collections.abc import Mapping, Sequence

Point = tuple[float, float, float]
"""Density reached, mean top-1 in percent, and its deviation (NaN without one)."""

LEAST = 90
"""Percent at which the axis of accuracy begins at the latest: differences within the noise look as small as they are."""

_SIDEWAYS = 1.012
"""Neighbouring lines are moved apart by this factor in density, so that their error bars do not hide one another."""


def draw(lines: Mapping[str, Sequence[Point]], format: str, *, title: str) -> bytes:
    """The figure as a file of a format such as svg or png: the same lines give the same bytes.

    A line of a single point, such as the dense network's, is drawn as a level over the whole width.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot(
        title=title, xlabel="density (fraction of the weights that are active)", ylabel="top-1, %", xscale="log"
    )
    several = [label for label, points in lines.items() if len(points) > 1]
    for label, points in lines.items():
        densities, top1, deviations = zip(*points, strict=True)
        if label in several:
            shift = _SIDEWAYS ** (several.index(label) - (len(several) - 1) / 2)
            moved = [density * shift for density in densities]
            axes.errorbar(moved, top1, yerr=deviations, label=label, marker="o", markersize=4, capsize=2, linewidth=1)
        else:
            axes.axhline(top1[0], label=label, color="black", linestyle="--", linewidth=1)
    densities = sorted({round(density, 3) for label in several for density, _, _ in lines[label]})
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if densities:
        axes.set_xticks(densities)
        axes.set_xlim(min(densities) / 1.3, max(densities) * 1.3)
    axes.set_ylim(bottom=min(LEAST, axes.get_ylim()[0]), top=100)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower center", ncols=4)
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "dist_sparse", "svg.fonttype": "none"}):
        figure.savefig(file, format=format, dpi=150, metadata={"Date": None} if format == "svg" else None)
    return file.getvalue()
