"""Making runs in parallel processes, a thread each, and keeping what comes of them."""

import itertools
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.study.record import append

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Case = TypeVar("_Case")
_Row = TypeVar("_Row", bound="DataclassInstance")


def make(
    todo: Iterable[_Case], one: Callable[[_Case], _Row], jobs: int, hours: float = inf
) -> Iterator[tuple[_Case, _Row | Exception]]:
    """Make runs, so many at a time, until all are made or the time is over; a failed one's error stands for its row.

    One at a time are made in this process, which prints their progress.
    """
    deadline = time.monotonic() + 3600 * hours
    left = itertools.takewhile(lambda _: time.monotonic() < deadline, todo)
    if jobs == 1:
        yield from ((case, _row_or_error(one, case)) for case in left)
        return
    running: dict[Future[_Row | Exception], _Case] = {}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_be_silent) as pool:
        while True:
            running |= {pool.submit(_row_or_error, one, case): case for case in itertools.islice(left, jobs - len(running))}
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()


def _row_or_error(one: Callable[[_Case], _Row], case: _Case) -> _Row | Exception:
    try:
        return one(case)
    except Exception as error:
        return error


def make_and_keep(
    todo: Iterable[_Case],
    one: Callable[[_Case], _Row],
    record: Path,
    say: Callable[[_Case, _Row | None], str],
    jobs: int,
    hours: float = inf,
) -> int:
    """Make runs, add each one's row to a record and print a line for it, in the words of ``say``; returns how many failed."""
    failed = 0
    for case, row in make(todo, one, jobs, hours):
        if isinstance(row, Exception):
            failed += 1
            print(f"{say(case, None)}: failed: {row}", file=sys.stderr, flush=True)
        else:
            append(record, row)
            print(say(case, row), flush=True)
    return failed


def _be_silent() -> None:
    """What a run prints of its progress would be mixed with that of the others; what fails is raised."""
    from dist_sparse.data.images.workers import die_with_parent

    die_with_parent()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 -- for as long as the process lives
