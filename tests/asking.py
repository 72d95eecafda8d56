"""Signals that arrive at a chosen place of a run, so that no test needs to hit a moment."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

from dist_sparse import validation
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.trainer import Hook, Moment, Trainer

PLACES: dict[str, Moment | tuple[object, str]] = {
    "start": Moment.STARTED,
    "step": Moment.STEPPED,
    "validation": (validation, "batch_sums"),
    "saving": (CheckpointStore, "save"),
}
"""Where a signal can come: at a moment when a run calls its hooks, or at the end of a function that it calls."""


@contextlib.contextmanager
def asked(place: str, time: int, *numbers: signal.Signals, here: bool = True) -> Iterator[Sequence[Hook]]:
    """In the context this process (if it is ``here``) gets the signals when the place is reached for the so many-th time.

    The run has to be given the hooks that the context is entered with.
    """
    times = 0

    def arrive() -> None:
        nonlocal times
        times += 1
        if here and times == time:
            for number in numbers:
                os.kill(os.getpid(), number)

    where = PLACES[place]
    if isinstance(where, Moment):

        def hook(moment: Moment, trainer: Trainer) -> None:
            if moment is where:
                arrive()

        yield [hook]
    else:
        with mock.patch.object(*where, _then(getattr(*where), arrive)):
            yield []


def _then(function: Callable[..., Any], act: Callable[[], None]) -> Callable[..., Any]:
    def both(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        act()
        return result

    return both
