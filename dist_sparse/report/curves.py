"""What a run has logged, drawn over its steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dist_sparse.report.drawing import COLOURS, WIDTH, Picture, new_figure, plain
from dist_sparse.report.history import History, LayerMap, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = Sequence[tuple[str, Series]]
_RANGE = 100
"""A logarithmic axis is for values of which the largest is more than so many times the smallest."""
_UPDATES, _NAMES = 400, 60
"""A heat map has at most so many columns, each of one update or the last of several, and names of so many layers."""


def training_pictures(history: History) -> list[Picture]:
    """Accuracy, loss and learning rate."""
    subnets = [(name.removeprefix("val/").removesuffix("_top1"), name) for name in history.columns("val", "_top1")]
    accuracy = [("top-1", "val/top1"), ("top-5", "val/top5"), ("top-1, averaged weights", "val/ema_top1"), *subnets]
    loss = [("training", "train/loss"), ("validation", "val/loss"), ("validation, averaged weights", "val/ema_loss")]
    if subnets:  # of which the overall figure is the last one's
        accuracy = accuracy[1:]
    return [
        *_picture("accuracy", "accuracy on the validation set, %", _lines(history, accuracy, 100)),
        *_picture("loss", "loss", _lines(history, loss), log=True),
        *_picture("learning_rate", "learning rate", _lines(history, [("", "train/lr")])),
    ]


def mask_pictures(history: History) -> list[Picture]:
    """Density, the share of weights that was ever active, and what each update has changed; by layer, too."""
    subnets = [
        (name.removeprefix("sparsity/").removesuffix("_density"), name) for name in history.columns("sparsity", "_density")
    ]
    density = [("density", "sparsity/density"), ("ever active", "sparsity/exploration"), *subnets]
    changed = _lines(history, [("", "sparsity/changed")], 100)
    pictures = [
        *_picture("density", "share of the masked layers' weights, %", _lines(history, density, 100)),
        *_picture("changed", "weights turned on or off by a mask update, %", changed, marker="."),
    ]
    for column, title in (("density", "density by layer and update, %"), ("changed", "change by layer and update, %")):
        if (found := history.layer_map(column)) is not None:
            label = f"{title} ({found.label})" if found.label else title
            name = f"{column}_by_layer"
            make = lambda found=found, label=label: _heat_map(found, label)  # noqa: E731
            pictures.append(Picture(name=name, alt=label, make=make, dense=True))
    return pictures


def speed_pictures(history: History) -> list[Picture]:
    """Images a second and memory."""
    memory = [(label, [(step, value / 1e9) for step, value in points]) for label, points in _peak(history)]
    return [
        *_picture("throughput", "images a second", _lines(history, [("", "time/images_per_second")]), from_zero=True),
        *_picture("memory", "peak memory of the first rank, GB", memory, from_zero=True),
    ]


def _peak(history: History) -> Lines:
    return _lines(history, [("", "memory/peak_bytes")])


def _lines(history: History, columns: Sequence[tuple[str, str]], factor: float = 1) -> Lines:
    """The columns that hold anything."""
    found = [(label, [(step, factor * value) for step, value in history.series(name)]) for label, name in columns]
    return [(label, points) for label, points in found if points]


def _picture(
    name: str, title: str, lines: Lines, *, marker: str = "", log: bool = False, from_zero: bool = False
) -> list[Picture]:
    """One picture, or none of nothing; with a logarithmic axis, if ``log``, where that helps."""
    alt = f"{title} over steps"
    make = lambda: _plot(title, lines, marker, log=log, from_zero=from_zero)  # noqa: E731
    return [Picture(name=name, alt=alt, make=make)] if lines else []


def _plot(title: str, lines: Lines, marker: str, *, log: bool, from_zero: bool) -> "Figure":
    figure = new_figure()
    axes = figure.add_subplot(title=title, xlabel="step")
    for number, (label, points) in enumerate(lines):
        steps, heights = zip(*points, strict=True)
        alone = "o" if len(points) == 1 else marker
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, heights, label=plain(label), color=colour, marker=alone, linewidth=1.5, markersize=5)
    values = [value for _, points in lines for _, value in points]
    if from_zero:
        axes.set_ylim(0, 1.1 * max(values) or 1)
    elif log and min(values) > 0 and max(values) > _RANGE * min(values):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if any(label for label, _ in lines):
        axes.legend(fontsize=9, framealpha=0.8)
    return figure


def _heat_map(found: LayerMap, title: str) -> "Figure":
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from dist_sparse.flops import shortened

    layers, updates = found.values.shape
    every = -(-updates // _UPDATES)
    values, steps = 100 * found.values[:, ::-every][:, ::-1], list(found.steps[::-every])[::-1]
    figure = new_figure(width=1.2 * WIDTH, height=1.0 + min(0.19 * max(layers, 6), 11))
    axes = figure.add_subplot(title=title, xlabel="step of the update")
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    norm = LogNorm(least, most) if most > _RANGE / 10 * least > 0 else Normalize(0, most)
    image = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest", norm=norm)
    ticks = sorted({round(number * (len(steps) - 1) / 5) for number in range(6)})
    axes.set_xticks(ticks, [f"{steps[tick]:,}" for tick in ticks])
    named = range(0, layers, -(-layers // _NAMES))
    names = [plain(shortened(found.layers[number].removesuffix(".weight"), 32)) for number in named]
    axes.set_yticks(named, names, fontsize=8)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure
