"""Train by public repositories' own pruning code, and by our methods at the same settings, and print the differences.

    python -m benchmarks.references --granet PATH [--rigl-torch PATH] [--mest PATH] [--ast PATH] [--dsb PATH]
        [--methods NAME ...] [--densities D ...] [--seeds N] [--jobs N]

Each PATH is your clone of the repository; nothing of it is copied here. Its code gets our network, data, optimizer and
schedule: a dense run of the study's recipe, which it masks in the order of its own training loop. Initial weights and the
order of the data are the same in both. Where it is mistaken, its "literal" and a "corrected" setting are shown; what that is,
its module here says (benchmarks/references/). A finished run is a line of the record and is not made again.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.references import ast, dsb, granet, mest, rigl_torch
from benchmarks.references.reference import Job, check_clone
from benchmarks.references.runs import Row, known, table, train_job
from benchmarks.study import runs
from benchmarks.study.cases import ROOT, Case
from benchmarks.study.numbers import count, density
from benchmarks.study.pool import make_and_keep
from benchmarks.study.record import read
from benchmarks.study.runs import check_data, rows_of, train

OPTIONS = ("--granet", "--rigl-torch", "--mest", "--ast", "--dsb")
REFERENCES = {each.REFERENCE.option: each.REFERENCE for each in (granet, rigl_torch, mest, ast, dsb)}
METHODS = [comparison.recipe for reference in REFERENCES.values() for comparison in reference.comparisons]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.references", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, reference in zip(OPTIONS, REFERENCES.values(), strict=True):
        parser.add_argument(option, type=Path, metavar="PATH", help=f"your clone of {reference.repository}")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME", help=f"of {', '.join(METHODS)}"
    )
    parser.add_argument("--densities", type=density, nargs="+", metavar="D", help="default: those of each comparison")
    parser.add_argument("--seeds", type=count, default=5, help="how many, from 0 on")
    parser.add_argument("--epochs", type=count, default=8)
    parser.add_argument("--images", type=count, help="of the 60,000 to train with; default: all")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time")
    parser.add_argument("--summary", action="store_true", help="print what is on record of all, and train nothing")
    parser.add_argument("--data-root", default="data", help="as data.root; Debian's package is found by itself")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "records" / "study")
    given = parser.parse_args(argv)
    if not (given.summary or clones(given)):
        parser.error(f"give a clone of one repository at least: {', '.join(f'{option} PATH' for option in OPTIONS)}")
    return given


def clones(given: argparse.Namespace) -> dict[str, Path]:
    """The clones that were given, by option."""
    return {option: path for option in REFERENCES if (path := getattr(given, option.replace("-", "_"))) is not None}


def jobs(given: argparse.Namespace) -> Iterator[Job]:
    """The references' runs, the first seed of everything first."""
    for seed in range(given.seeds):
        for option in REFERENCES if given.summary else clones(given):
            for comparison in REFERENCES[option].comparisons:
                if comparison.recipe in given.methods:
                    for density in given.densities or comparison.densities:
                        for setting in comparison.settings:
                            yield Job(
                                reference=REFERENCES[option],
                                comparison=comparison,
                                setting=setting,
                                density=density,
                                seed=seed,
                                epochs=given.epochs,
                                images=given.images,
                            )


def records(given: argparse.Namespace) -> tuple[Path, Path]:
    """The files of our runs, which are the study's, and of theirs."""
    return given.records / "runs.csv", given.records / "references.csv"


def recorded(given: argparse.Namespace) -> list[tuple[Job, Row, float]]:
    """What is on record of what is asked for: a reference's run, and top-1 of ours beside it."""
    our_record, their_record = records(given)
    asked, theirs = list(jobs(given)), read(their_record, Row)
    top1 = {case: row.top1 for case, row in rows_of((job.ours for job in asked), read(our_record, runs.Row)).items()}
    return [(job, row, top1[job.ours]) for job in asked if (row := known(job, theirs)) is not None and job.ours in top1]


def say_ours(case: Case, row: runs.Row | None) -> str:
    """A line on a run of ours."""
    told = f"ours: {case.label}, density {case.density:g}, seed {case.seed}"
    return told if row is None else f"{told}: {100 * row.top1:.2f} %"


def say_theirs(job: Job, row: Row | None) -> str:
    """A line on a run of a reference."""
    name = f"{job.reference.option}: {job.comparison.recipe}, {job.setting}"
    told = f"{name}, density {job.density:g}, seed {job.seed}"
    return told if row is None else f"{told}: {100 * row.top1:.2f} %"


def main(argv: Sequence[str] | None = None) -> int:
    given = arguments(argv)
    asked, paths = [] if given.summary else list(jobs(given)), clones(given)
    for option, path in paths.items():
        check_clone(REFERENCES[option], path)
    if paths and not asked:
        raise SystemExit(f"--methods {' '.join(given.methods)}: none is compared to {', '.join(paths)}")
    our_record, their_record = records(given)
    ours = list(dict.fromkeys(job.ours for job in asked))
    todo = [case for case in ours if case not in rows_of(ours, read(our_record, runs.Row))]
    left = [job for job in asked if known(job, read(their_record, Row)) is None]
    if todo or left:
        check_data(asked[0].ours.config, given.data_root)
    failed = make_and_keep(todo, partial(train, data_root=given.data_root), our_record, say_ours, given.jobs)
    one = partial(train_job, clones=paths, data_root=given.data_root)
    failed += make_and_keep(left, one, their_record, say_theirs, given.jobs)
    print(table(recorded(given)))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
