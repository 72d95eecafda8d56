"""One command line, run to its end in this process: it trains, or it is refused as it should be."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import tempfile
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dist_sparse.config.tree import leaves, sections
from tests.command import here

RAN, REFUSED, UNCLEAR, TRACEBACK, HANG = "ran", "refused", "unclear lines", "tracebacks", "hangs"
GOOD = (RAN, REFUSED)
STEPS = 3
"""After which a run that is longer is interrupted, and counts as having run."""


@dataclass(frozen=True)
class Verdict:
    """How a command ended, and what it said where that is of interest."""

    kind: str
    words: Sequence[str]
    said: str

    @property
    def command(self) -> str:
        """To be pasted into a shell."""
        return f"python -m dist_sparse.train {shlex.join(map(_printable, self.words))}"


class TooLong(BaseException):
    """Nothing catches it on the way."""


def run(words: Sequence[str], keys: Sequence[str], limit: float) -> Verdict:
    """Train with the words of a command line, in an empty folder, for at most so many seconds."""
    from dist_sparse.train import main
    from dist_sparse.trainer import Moment, Trainer

    def interrupt(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.STEP_ENDED and STEPS <= trainer.progress.step < trainer.total_steps:
            raise KeyboardInterrupt

    with _empty_folder():
        try:
            with _time_limit(limit):
                outcome = here(partial(main, hooks=[interrupt]), words)
        except TooLong:
            return Verdict(HANG, words, traceback.format_exc(limit=-6))
        except (Exception, SystemExit):
            return Verdict(TRACEBACK, words, traceback.format_exc(limit=-6))
    errors = [line for line in outcome.err.splitlines() if not line.startswith("WARNING: ")]
    if outcome.code in (0, 130):
        return Verdict(RAN if not outcome.errors else UNCLEAR, words, outcome.err)
    clear = outcome.code == 2 and errors and all(line.startswith("error: ") and _names(line, words, keys) for line in errors)
    return Verdict(REFUSED if clear and len(errors) <= len(keys) + 1 else UNCLEAR, words, f"{outcome.code}: {outcome.err}")


def _names(line: str, words: Sequence[str], keys: Sequence[str]) -> bool:
    """The line says what it is about: a key, one of the words, or a file of the run."""
    known = [*leaves(), *sections(), *(key for key in keys if key)]
    return (
        any(key in line for key in known)
        or any(word and word in line for word in words)
        or re.search(r"\S+/\S+|'.*'", line) is not None
    )


@contextlib.contextmanager
def _empty_folder() -> Iterator[None]:
    before, folder = Path.cwd(), tempfile.mkdtemp(prefix="fuzz-")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def out_of_time(number: int, frame: types.FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _printable(word: str) -> str:
    return word.encode("utf-8", "surrogatepass").decode("utf-8", "backslashreplace").replace("\0", "\\0")
