"""The end of a command's process: after its last word it is over soon, whatever a library, a thread or a child waits for."""

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from dist_sparse.command import is_needless
from dist_sparse.errors import Incomplete, refuse

EXIT_INTERRUPTED = 130
PATIENCE = 4.0
"""Seconds for Python's own exit: its exit functions, and the threads and processes that it waits for."""


def leave(main: Callable[[], int], *, on_all_ranks: bool = False) -> NoReturn:
    """Call a command's ``main``, and end the process with its exit code: after Ctrl-C 130, after a crash 1 and a traceback.

    A command that is not for all ranks of torchrun does its work in the first, and the others have nothing to do or to say.
    """
    code = 1
    try:
        code = 0 if is_needless() and not on_all_ranks else main()
    except Incomplete as error:
        code = refuse(error, reports=error.reports)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        threading.Thread(target=_insist, args=(code,), daemon=True, name="leave").start()
    sys.exit(code)


def _insist(code: int) -> None:
    """End the process the hard way once its time is over. A usual exit comes first, and this thread with it."""
    threading.Event().wait(PATIENCE)
    for child in multiprocessing.active_children():
        child.kill()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
