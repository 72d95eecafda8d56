"""How a run stands: finished, under way, or come to another end."""

import time
from dataclasses import dataclass
from pathlib import Path

from dist_sparse.lease import SECONDS
from dist_sparse.results.runs import Run
from dist_sparse.run_folder import FINISHED, PREEMPTED


@dataclass(frozen=True, kw_only=True)
class Status:
    """``word`` for a table, ``text`` for a report's head."""

    word: str
    text: str


def status_of(run: Run) -> Status:
    """As its folder tells it. That no process trains there is believed once nobody has renewed the lock for a while."""
    reason = run.summary.get("exit_reason")
    if reason == FINISHED:
        return Status(word="finished", text="finished")
    if reason == PREEMPTED:
        return Status(word="preempted", text="preempted: stopped by a signal, to go on later")
    if reason is not None:
        return Status(word=str(reason).partition(":")[0], text=f"not finished: {reason}")
    if _is_locked(run.path):
        return Status(word="under way", text="under way: what follows is what it has logged and saved so far")
    return Status(word="cut off", text="not finished, and no process trains here: it was killed, or trains no more")


def _is_locked(folder: Path) -> bool:
    try:
        return time.time() - (folder / "lock").stat().st_mtime < SECONDS
    except OSError:
        return False
