"""The end of a command's process: after its last word it is over soon, whatever a library, a thread or a child waits for."""

import atexit
import contextlib
import gc
import multiprocessing
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from dist_sparse.command import is_needless
from dist_sparse.errors import Incomplete, refuse

EXIT_INTERRUPTED = 130
_EXIT_UNREAD = 141
"""As of a program that SIGPIPE ends."""
_NOT_NEEDED = "wandb"
PATIENCE = 4.0
"""Seconds for Python's own exit: its exit functions, and the threads and processes that it waits for."""


def leave(main: Callable[[], int], *, on_all_ranks: bool = False) -> NoReturn:
    """Call a command's ``main``, and end the process with its exit code: after Ctrl-C 130, after a crash 1 and a traceback, and
    141 where nobody reads what it prints any more.

    A command that is not for all ranks of torchrun does its work in the first, and the others have nothing to do or to say.
    """
    code, over = 1, threading.Event()
    # Exit functions are called in reverse order, so this one after those of all packages that ``main`` imports.
    atexit.register(lambda: _end(code) if over.is_set() else None)
    try:
        code = 0 if is_needless() and not on_all_ranks else main()
    except Incomplete as error:
        code = refuse(error, reports=error.reports)
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        code = _EXIT_UNREAD
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        threading.Thread(target=_insist, args=(code,), daemon=True, name="leave").start()
    over.set()
    sys.exit(code)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import heavy packages within this context: nothing of them is garbage, and looking for some takes a sixth of the time.

    timm imports W&B, where it is installed, for a function that nothing here calls. That takes half a second, so W&B is not to
    be found within the context, and runs that log to it import it themselves.
    """
    enabled = gc.isenabled()
    gc.disable()
    hidden = _NOT_NEEDED not in sys.modules
    if hidden:
        sys.modules[_NOT_NEEDED] = None  # type: ignore[assignment]  (to import it is an ImportError then)
    try:
        yield
    finally:
        if hidden and sys.modules.get(_NOT_NEEDED) is None:
            sys.modules.pop(_NOT_NEEDED, None)
        if enabled:
            gc.enable()


def _nobody_reads() -> bool:
    """Whether whoever read the output has had enough of it, such as ``head``; what is left of it goes nowhere then."""
    try:
        sys.stdout.flush()  # fails only if something is left to write
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        unread = any(event & select.POLLERR for _, event in poll.poll(0))
    except BrokenPipeError:
        unread = True
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return unread


def _end(code: int) -> None:
    """End the process before Python takes torch's and timm's modules apart object by object, which takes a second."""
    if multiprocessing.active_children():
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except Exception:
        return  # Python has a word and a code of its own for it
    os._exit(code)


def _insist(code: int) -> None:
    """End the process the hard way once its time is over. A usual exit comes first, and this thread with it."""
    threading.Event().wait(PATIENCE)
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
