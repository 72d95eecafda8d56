"""File systems that refuse: a disk that is too small, and operations that fail for a while."""

import errno
import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from tests.faults.bench import Bench, Case, clean_up, some_operation
from tests.faults.compare import MISSING, TOO_MANY, differences
from tests.faults.processes import Ended
from tests.faults.runs import Run
from tests.full_disk import small_disk

_PAGE = 4096


def full_disk(bench: Bench, draw: random.Random) -> Case:
    """A disk with room for a part of what the run writes, and then for all of it."""
    run = bench.choose(draw, (1, 1, 2))
    case, reference = Case("full disk"), bench.reference(run)
    size = max(2, round(draw.uniform(0.05, 1.5) * reference.bytes / _PAGE)) * _PAGE
    case.story = f"{run.name}: on a disk of {size} bytes, where the run leaves {reference.bytes}"
    try:
        _on_small_disk(bench, case, run, size)
    except pytest.skip.Exception as skipped:
        case.outcome = f"skipped: {skipped}"
    return case


def _on_small_disk(bench: Bench, case: Case, run: Run, size: int) -> None:
    with small_disk(bench.new_folder(), size) as disk:
        folder = disk / "run"
        with bench.start(run, folder) as start:
            ended = bench.tried(case, start.end())
        subprocess.run(["mount", "-o", f"remount,size={10 * size + (64 << 20)}", str(disk)], check=True)
        _judge(bench, case, run, folder, ended)


def refused_operations(bench: Bench, draw: random.Random) -> Case:
    """Some file operations of a rank that write fail, one after the other."""
    run = bench.choose(draw, (1, 1, 2))
    case, folder, reference = Case("failing file operations"), bench.new_folder(), bench.reference(run)
    rank = draw.randrange(run.ranks) if draw.random() < 0.2 else 0
    code = draw.choice((errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT))
    operation, times = some_operation(draw, reference, rank), draw.choice((1, 1, 2, 5, 1000))
    case.story = f"{run.name}: {times} operations of rank {rank} from {operation} on fail with {os.strerror(code)}"
    fault = {"error_at": {"folder": str(folder), "operation": operation, "code": code, "times": times}}
    with bench.start(run, folder, {rank: fault}) as start:
        ended = bench.tried(case, start.end())
    _judge(bench, case, run, folder, ended)
    clean_up(case, folder)
    return case


def _judge(bench: Bench, case: Case, run: Run, folder: Path, ended: Ended) -> None:
    """An end with 0 has left everything but checkpoints that it has warned of; any other is a line, and can be resumed."""
    refused = any(re.match(r"no (best )?checkpoint at step \d+", warning) for warning in ended.warnings)
    if ended.code == 0:
        case.outcome = "equal, with warnings" if ended.warnings else "equal"
        found = differences(folder, bench.reference(run).folder, but_best=refused)
        case.differences += [line for line in found if not (refused and line.endswith((MISSING, TOO_MANY)))]
        last = folder / "checkpoints" / f"step_{bench.reference(run).steps:08d}.pt"
        if not last.exists():
            case.others.append(f"is finished without its last checkpoint: {ended.err[-800:]}")
        return
    if not ended.errors and not ended.struck:
        case.others.append(f"ended with {ended.codes} and no line that says why: {ended.err[-1500:]}")
    bench.resume(case, run, folder, but_best=refused)
    if case.outcome == "refused":
        case.others.append("refused to go on once there was room")
    case.outcome = "stopped with a line, then equal"
