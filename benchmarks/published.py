"""Train networks that fit a CPU core as papers did, and put the errors beside those that the papers print.

    python -m benchmarks.published --data-root DIR [--seeds N] [--jobs N] [--summary]

DIR holds MNIST (``MNIST/raw``; ``python -m dist_sparse.train --config configs/mnist/dense.yaml --data.download=true`` fetches
it). Recipes are those of configs/mnist. A run takes four to nine minutes of a core; a finished one is a line of the record and
is not made again.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from benchmarks.study.cases import ROOT, digest
from benchmarks.study.numbers import count
from benchmarks.study.pool import make_and_keep
from benchmarks.study.record import read
from benchmarks.study.runs import check_data, in_folder, train_here
from benchmarks.study.statistics import Estimate, estimate
from dist_sparse.config import Config, load_config

SNIP = "SNIP, arXiv 1810.02340, table 1"
RIGL = "RigL, arXiv 1911.11134, table 2 (its best is 1.44)"
SNFS = "SNFS, arXiv 1907.04840, results/MNIST_sparse_summary.csv of its repository"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that a paper prints."""

    what: str
    source: str
    error: float
    """Percent of the 10,000 test images."""
    half_width: float | None = None
    """Half the width of the 95 % interval, where a standard error is printed."""
    recipe: str
    """The name of a recipe of configs/mnist."""
    differing: tuple[str, ...] = ()
    """Words of a command line, where the recipe is not quite the one."""


ROWS = (
    Published(what="dense", source=SNIP, error=1.7, recipe="dense"),
    Published(
        what="dense, Nesterov", source=SNFS, error=1.31, half_width=0.02, recipe="dense", differing=("--optim.name=sgd",)
    ),
    Published(what="SNFS, density 0.05", source=SNFS, error=1.47, half_width=0.06, recipe="snfs"),
    Published(
        what="SNFS, density 0.02",
        source=SNFS,
        error=1.8,
        half_width=0.04,
        recipe="snfs",
        differing=("--sparsity.density=0.02",),
    ),
    Published(what="SNIP, density 0.05", source=SNIP, error=1.6, recipe="snip"),
    Published(what="SNIP, density 0.02", source=SNIP, error=2.4, recipe="snip", differing=("--sparsity.density=0.02",)),
    Published(what="RigL, density 0.025", source=RIGL, error=1.48, recipe="rigl"),
)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One of our runs for a published figure."""

    published: Published
    seed: int

    @property
    def file(self) -> Path:
        """The recipe's."""
        return ROOT / "configs" / "mnist" / f"{self.published.recipe}.yaml"

    @property
    def overrides(self) -> list[str]:
        """What differs from the recipe; of `execution.compute` dense is the faster one for a network so small."""
        return [f"--seed={self.seed}", "--execution.compute=dense", *self.published.differing]

    @cached_property
    def config(self) -> Config:
        """The run's configuration."""
        return load_config(str(self.file), self.overrides)

    @cached_property
    def settings(self) -> str:
        """What tells a row of the record that is of this run from one of before a change of its recipe."""
        return digest(self.config)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finished run."""

    what: str
    seed: int
    settings: str
    error: float
    """Percent, at the end of training."""
    best_error: float
    """After the epoch where it was least; by the same 10,000 images, so it is no fair measure, but a printed one."""
    active_density: float
    cpu_seconds: float


def train(attempt: Attempt, data_root: str) -> Row:
    """Make a run."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*attempt.overrides, *in_folder(Path(folder), data_root, {"checkpoint.every": "100%"})]
        summary, seconds = train_here(attempt.file, overrides)
    return Row(
        what=attempt.published.what,
        seed=attempt.seed,
        settings=attempt.settings,
        error=round(100 * (1 - summary["last_top1"]), 4),
        best_error=round(100 * (1 - summary["best_top1"]), 4),
        active_density=round(summary["density"], 6),
        cpu_seconds=round(seconds, 2),
    )


def table(rows: Sequence[Row]) -> str:
    """A markdown table: the published errors, and ours."""
    head = [
        "LeNet-300-100 on MNIST",
        "source",
        "error printed, % (95 %)",
        "seeds",
        "ours, % (95 %)",
        "best epoch's",
        "density",
        "CPU s",
    ]
    lines = [head, ["---", "---", "---:", "---:", "---:", "---:", "---:", "---:"]]
    for published in ROWS:
        found = [row for row in rows if row.what == published.what]
        if found:
            ours, best = (
                _shown(estimate(errors)) for errors in zip(*((row.error, row.best_error) for row in found), strict=True)
            )
            width = published.half_width
            printed = f"{published.error:g}" if width is None else f"{published.error:.2f} ± {width:.2f}"
            density = f"{found[0].active_density:.4g}"
            seconds = f"{sum(row.cpu_seconds for row in found) / len(found):.0f}"
            lines.append([published.what, published.source, printed, str(len(found)), ours, best, density, seconds])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(mean: Estimate) -> str:
    return f"{mean.mean:.2f} ± {mean.half_width:.2f}" if mean.n > 1 else f"{mean.mean:.2f}"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", default="data", help="as data.root")
    parser.add_argument("--seeds", type=count, default=5, help="how many, from 0 on")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time")
    parser.add_argument("--summary", action="store_true", help="print what is on record, and train nothing")
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks" / "records" / "study" / "published.csv")
    return parser.parse_args(argv)


def say(attempt: Attempt, row: Row | None) -> str:
    """A line on a run."""
    told = f"{attempt.published.what}, seed {attempt.seed}"
    return told if row is None else f"{told}: error {row.error:.2f} % in {row.cpu_seconds:.0f} s"


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    attempts = [Attempt(published=published, seed=seed) for seed in range(given.seeds) for published in ROWS]
    settings = {attempt.settings for attempt in attempts}
    done = {row.settings for row in read(given.record, Row)}
    todo = [] if given.summary else [attempt for attempt in attempts if attempt.settings not in done]
    if todo:
        check_data(todo[0].config, given.data_root)
    failed = make_and_keep(todo, partial(train, data_root=given.data_root), given.record, say, given.jobs)
    print(table([row for row in read(given.record, Row) if row.settings in settings]))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
