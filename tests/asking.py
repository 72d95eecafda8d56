"""Signals that arrive at a chosen place of a run, so that no test needs to hit a moment."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from dist_sparse import validation
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.trainer import Trainer

PLACES = {
    "start": (Trainer, "_mask_average"),
    "step": (Trainer, "_optimizer_step"),
    "validation": (validation, "_sums"),
    "saving": (CheckpointStore, "save"),
}
"""Where a signal can come: in a function that is called once or more, on the way to its end."""


@contextlib.contextmanager
def asked(place: str, call: int, *numbers: signal.Signals, here: bool = True) -> Iterator[None]:
    """Within the context this process gets the signals at the end of the so many-th call (``here``) of a place."""
    owner, name = PLACES[place]
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def then_ask(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        result = original(*arguments, **keywords)
        calls += 1
        if here and calls == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return result

    with mock.patch.object(owner, name, then_ask):
        yield
