"""Train one method on several numbers of ranks and seeds, and tell how alike the accuracies and the masks are.

    python -m benchmarks.study.overlap [--method rigl] [--density 0.02] [--ranks 1 2 4] [--seeds 3] [--plot FILE]

All runs have the same global batch. The overlap of two masks is the share of the weights active in either that are active in
both (Jaccard's index), over all layers together, at the end of each epoch. Random masks of density d overlap by d / (2 - d).
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.study.cases import METHODS, ROOT, Case
from benchmarks.study.numbers import count, density
from benchmarks.study.record import append, read
from benchmarks.study.runs import Row, train_in
from benchmarks.study.statistics import paired
from dist_sparse.files import atomic_write
from dist_sparse.report.drawing import COLOURS, Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Masks = Mapping[str, "Tensor"]
"""The bits of each layer's mask."""
OVERLAPS = "overlap.json"
"""In the folder of the record: the overlaps by pair of runs, and what they are of."""


def masks_of(folder: Path) -> list[Masks]:
    """The masks of a run's checkpoints, in the order of steps; of several sub-nets, those of the sparsest."""
    from dist_sparse.networks import networks_of
    from dist_sparse.stored import read_checkpoint

    return [networks_of(read_checkpoint(path))[-1].masks for path in sorted(folder.glob("checkpoints/step_*.pt"))]


def overlap(one: Masks, other: Masks) -> float:
    """Weights active in both, over weights active in either."""
    from dist_sparse.sparsity.bits import popcount

    both = sum(popcount(one[name] & other[name]) for name in one)
    return both / sum(popcount(one[name] | other[name]) for name in one)


def overlaps(masks: Mapping[tuple[int, int], Sequence[Masks]]) -> dict[str, list[float]]:
    """The mean overlap at each epoch, by kind of pair. The runs are told by their ranks and seed.

    Pairs of one number of ranks differ in the seed; pairs of two numbers share it.
    """
    kinds: dict[str, list[list[float]]] = {}
    for (one, first), (other, second) in combinations(sorted(masks), 2):
        if (one == other) == (first == second):
            continue
        kind = f"other seeds, {one} rank{'s' * (one > 1)}" if one == other else f"same seed, {one} and {other} ranks"
        pair = zip(masks[one, first], masks[other, second], strict=True)
        kinds.setdefault(kind, []).append([overlap(*each) for each in pair])
    return {kind: [mean(epoch) for epoch in zip(*pairs, strict=True)] for kind, pairs in sorted(kinds.items())}


def table(found: Mapping[str, Sequence[float]], rows: Mapping[int, Mapping[int, Row]]) -> str:
    """Two markdown tables: top-1 by number of ranks, and overlaps by epoch."""
    lines = [["ranks", "seeds", "top-1, %", "- fewest (95 %)"], ["---", *["---:"] * 3]]
    base = {seed: 100 * row.top1 for seed, row in rows[min(rows)].items()}
    for ranks, of in rows.items():
        accuracies = {seed: 100 * row.top1 for seed, row in of.items()}
        difference = paired(accuracies, base)
        text = "" if ranks == min(rows) or difference is None else str(difference)
        lines.append([str(ranks), str(len(of)), f"{mean(accuracies.values()):.2f}", text])
    tables = [lines]
    if found:
        epochs = len(next(iter(found.values())))
        head = ["overlap of masks after epoch", *map(str, range(1, epochs + 1))]
        body = [[kind, *(f"{value:.3f}" for value in values)] for kind, values in found.items()]
        tables.append([head, ["---", *["---:"] * epochs], *body])
    return "\n\n".join("\n".join(f"| {' | '.join(line)} |" for line in each) for each in tables)


def picture(found: Mapping[str, Sequence[float]], title: str) -> Picture:
    """The overlaps over epochs, a line for each kind of pair."""

    def draw() -> "Figure":
        figure = new_figure(width=7, height=3.8)
        axes = figure.add_subplot(title=title, xlabel="epochs", ylabel="overlap of masks", ylim=(0, 1.02))
        for number, (kind, values) in enumerate(found.items()):
            style = "--" if kind.startswith("other") else "-"
            axes.plot(range(1, len(values) + 1), values, style, label=kind, marker="o", markersize=4, color=COLOURS[number])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return figure

    return Picture(name="overlap", alt=title, make=draw)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study.overlap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="rigl", choices=[name for name in METHODS if name != "dense"])
    parser.add_argument("--density", type=density, default=0.02)
    parser.add_argument("--ranks", type=count, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--epochs", type=count, default=8)
    parser.add_argument("--images", type=count, help="of the 60,000 to train with; default: all")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks" / "records" / "study" / "runs.csv")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the overlaps over epochs: FILE.svg")
    given = parser.parse_args(argv)

    masks: dict[tuple[int, int], list[Masks]] = {}
    rows: dict[int, dict[int, Row]] = {ranks: {} for ranks in given.ranks}
    recorded = {(row.case, row.settings) for row in read(given.record, Row)}
    for seed in range(given.seeds):
        for ranks in given.ranks:
            case = Case(
                recipe=given.method,
                network="lenet_300_100",
                density=given.density,
                seed=seed,
                epochs=given.epochs,
                images=given.images,
                ranks=ranks,
            )
            with tempfile.TemporaryDirectory() as folder:
                keys = {"checkpoint.every": "1 epochs", "checkpoint.keep": given.epochs + 1}
                rows[ranks][seed] = row = train_in(Path(folder), case, given.data_root, keys)
                masks[ranks, seed] = masks_of(Path(folder))
            if (row.case, row.settings) not in recorded:
                append(given.record, row)
    found = overlaps(masks)
    told = f"{given.method} at density {given.density:g}, {given.seeds} seeds, {given.epochs} epochs"
    content = json.dumps({"of": told, "overlaps": found}, indent=1) + "\n"
    atomic_write(given.record.parent / OVERLAPS, lambda file: file.write(content.encode()))
    print(f"\n{told}\n\n{table(found, rows)}")
    if given.plot:
        given.plot.write_bytes(picture(found, f"Masks of {told}").svg())


if __name__ == "__main__":
    main()
