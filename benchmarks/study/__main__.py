"""Train every method at several densities and seeds on Fashion-MNIST, and say what can be told apart.

    python -m benchmarks.study [--hours H] [--methods NAME ...] [--densities D ...] [--seeds N] [--jobs N]
    python -m benchmarks.study --methods static_nm rigl_nm gmp_nm srste
    python -m benchmarks.study --ablation drop_fraction --densities 0.02
    python -m benchmarks.study --ranks 1 2 4 --methods rigl gmp --densities 0.02
    python -m benchmarks.study --summary [--plot FOLDER]

Each run is a recipe of configs/fashion_mnist/study with its density and seed, with one thread, and the same as that of
`python -m dist_sparse.train` with these keys. A finished run is a line of the record and is not made again, unless the recipe
has changed since. A study that is cut off goes on where it was; the first seed of everything comes first. Differences
are within seeds (same data order and initial weights), with a 95 % interval by Student's t; in bold where it leaves 0 out.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

from benchmarks.study.cases import ABLATIONS, BLOCKS, DENSITIES, METHODS, NETWORKS, NM, ROOT, Case, ablated, cases
from benchmarks.study.numbers import count, density
from benchmarks.study.plot import AXES, ablation_picture, picture
from benchmarks.study.pool import make_and_keep
from benchmarks.study.record import read
from benchmarks.study.runs import Row, check_data, rows_of, train
from benchmarks.study.table import AGAINST, intervals, overview, tables
from dist_sparse.report.drawing import Picture


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [*METHODS, *BLOCKS, *NM]
    parser.add_argument("--network", default=None, choices=list(NETWORKS), help="default: lenet_300_100, or the ablation's")
    parser.add_argument(
        "--methods", nargs="+", choices=known, metavar="NAME", help=f"of {', '.join(known)}; default: all that fit"
    )
    parser.add_argument("--densities", type=density, nargs="+", default=list(DENSITIES), metavar="D")
    parser.add_argument("--seeds", type=count, default=5, help="how many, from 0 on")
    parser.add_argument("--epochs", type=count, default=8)
    parser.add_argument("--images", type=count, help="of the 60,000 to train with; default: all")
    parser.add_argument("--ablation", choices=list(ABLATIONS), help="change one key of a method instead of the method")
    parser.add_argument("--ranks", type=count, nargs="+", default=[1], help="processes of a run, at the same global batch")
    parser.add_argument("--against", nargs="+", choices=known, metavar="NAME", help="compared to; default: static and rigl")
    parser.add_argument("--hours", type=float, default=inf, help="start no further run after so long")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time")
    parser.add_argument("--summary", action="store_true", help="print what is on record, and train nothing")
    parser.add_argument(
        "--plot", type=Path, metavar="FOLDER", help="draw top-1 over density and over training FLOPs into it, or an ablation's"
    )
    parser.add_argument("--record", type=Path, default=ROOT / "benchmarks" / "records" / "study" / "runs.csv")
    parser.add_argument("--data-root", default="data", help="as data.root; Debian's package is found by itself")
    given = parser.parse_args(argv)
    given.against = given.against or (() if given.ablation else AGAINST)
    return given


def wanted(given: argparse.Namespace) -> list[Case]:
    """The runs that the arguments ask for, each once, in the order in which they are made."""
    ablation = ABLATIONS.get(given.ablation)
    network = given.network or (ablation.network if ablation else "lenet_300_100")
    recipes = given.methods or (ablation.recipes if ablation else METHODS if network != "cnn_4" else [*METHODS, *BLOCKS])
    if network != "cnn_4" and (blocks := sorted(set(recipes) & set(BLOCKS))):
        raise SystemExit(f"--methods {' '.join(blocks)}: blocks cover convolutions; give --network cnn_4")
    plain = cases(network, recipes, given.densities, given.seeds, given.epochs, given.images)
    of = ablated(ablation, plain) if ablation else plain
    return list(dict.fromkeys(replace(case, ranks=ranks) for case in of for ranks in given.ranks))


def report(found: dict[Case, Row], asked: Sequence[Case], given: argparse.Namespace) -> None:
    """Print the tables of the runs that are on record, and draw the plots."""
    hours = sum(row.cpu_seconds for row in found.values()) / 3600
    print(f"\n{asked[0].network}, {given.epochs} epochs: {len(found)} of {len(asked)} runs, {hours:.2f} hours of a core\n")
    print(overview(found), end="\n\n")
    print(tables(found, given.against))
    compared = list(intervals(found, given.against))
    beyond = sum(difference.differs_from_zero for difference in compared)
    print(f"\n{beyond} of {len(compared)} intervals leave 0 out; without any effect about {len(compared) / 20:.0f} would.")
    if given.plot and found:
        given.plot.mkdir(parents=True, exist_ok=True)
        for drawn in pictures(found, asked[0], given):
            (given.plot / f"{drawn.name}.svg").write_bytes(drawn.svg())


def pictures(found: dict[Case, Row], first: Case, given: argparse.Namespace) -> list[Picture]:
    """The plots of what was asked for."""
    what = f"Fashion-MNIST, {first.network}, {given.epochs} epochs: mean and 95 % interval"
    if given.ablation:
        return [ablation_picture(found, given.ablation, f"{ABLATIONS[given.ablation].key}; {what}")]
    return [picture(found, over, what) for over in AXES]


def say(case: Case, row: Row | None) -> str:
    """A line on a run."""
    told = f"{case.label}, density {case.density:g}, seed {case.seed}"
    return told if row is None else f"{told}: {100 * row.top1:.2f} % in {row.cpu_seconds:.0f} s"


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    asked = wanted(given)
    made = rows_of(asked, read(given.record, Row))
    todo = [] if given.summary else [case for case in asked if case not in made]
    if todo:
        check_data(todo[0].config, given.data_root)
    failed = make_and_keep(todo, partial(train, data_root=given.data_root), given.record, say, given.jobs, given.hours)
    report(rows_of(asked, read(given.record, Row)), asked, given)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
