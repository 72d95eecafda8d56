"""Faults that are planted in the training process itself: at a file operation, or in its arithmetic."""

import os
import sys
from collections.abc import Callable
from typing import Any

_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.listdir", "os.scandir"}


def plant(name: str, **values: Any) -> None:
    """Plant one of the faults of this module by its name."""
    {"count": count, "signal_at": signal_at, "error_at": error_at, "not_finite": _not_finite}[name](**values)


def count(folder: str, file: str) -> None:
    """Leave in ``file`` a byte for each file operation of this process in the run's folder."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    _before_each(folder, lambda number, event: os.write(descriptor, b"."))


def signal_at(folder: str, operation: int, number: int) -> None:
    """This process gets a signal before its so many-th file operation in the run's folder."""

    def strike(count: int, event: str) -> None:
        if count == operation:
            os.kill(os.getpid(), number)

    _before_each(folder, strike)


def error_at(folder: str, operation: int, code: int, times: int) -> None:
    """The so many-th file operation that writes in the run's folder, and the next ``times`` - 1, are refused."""

    def strike(count: int, event: str) -> None:
        if operation <= count < operation + times:
            raise OSError(code, os.strerror(code))

    _before_each(folder, strike, writing=True)


def _before_each(folder: str, act: Callable[[int, str], object], *, writing: bool = False) -> None:
    """Call ``act(n, event)`` before the n-th operation of this very process in a folder, of those that Python tells of."""
    me, done = os.getpid(), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event not in _OPERATIONS or not arguments or os.getpid() != me:
            return
        if writing and (event in ("os.listdir", "os.scandir") or (event == "open" and not _writes(*arguments[1:3]))):
            return
        if isinstance(path := arguments[0], (str, os.PathLike)) and str(path).startswith(folder):
            done += 1
            act(done, event)

    sys.addaudithook(hook)


def _writes(mode: str | None, flags: int) -> bool:
    return bool(set(mode) & set("wax+")) if mode else bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _not_finite(**values: Any) -> None:
    from tests.faults.poison import poison

    poison(**values)
