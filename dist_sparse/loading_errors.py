"""What torch says when a process that loads images has died, or has no room to hand them over, in words for the user."""

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator

from dist_sparse.errors import Incomplete, UserError

_SHARED = "/dev/shm"
_FULL = re.compile(r"shared memory|</torch_.*No space left|torch_shm|Bus error")
_DIED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)")


@contextlib.contextmanager
def loading_explained() -> Iterator[None]:
    """Tell in one line why loading has failed, wherever in the block torch says so: from a signal handler, perhaps.

    Raises:
        UserError: shared memory is full.
        Incomplete: a worker has died.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if (explained := _explained(error)) is None:
            raise
        raise explained from error


def _explained(error: Exception) -> UserError | Incomplete | None:
    text = str(error)
    if isinstance(error, (ConnectionError, EOFError)):
        return _died("what it had sent cannot be fetched any more")
    if isinstance(error, OSError):
        return shared_memory_full() if error.errno == errno.ENOSPC and error.filename is None and _is_full() else None
    if _FULL.search(text) and ("DataLoader worker" in text or "/torch_" in text):
        return shared_memory_full()
    died = _DIED.search(text)
    if died is None:
        return None
    return _died(f"process {died[1]} " + (f"was killed by signal {died[2].strip()}" if died[2] else "has ended unexpectedly"))


def _died(how: str) -> Incomplete:
    return Incomplete(
        f"a worker that loads images has died ({how}): for want of memory, perhaps (the kernel's log says so); fewer "
        "data.workers need less; resume=auto goes on from the last checkpoint"
    )


def shared_memory_full() -> UserError:
    """What to do about it."""
    return UserError(
        f"{_SHARED} is full (it has {shutil.disk_usage(_SHARED).total / 2**20:,.0f} MB), through which data.workers hand over "
        "images: docker run --shm-size=8g (or --ipc=host) gives more; data.workers=0, or data.backend=dali without "
        "data.auto_augment, needs none"
    )


def _is_full() -> bool:
    return shutil.disk_usage(_SHARED).free < 2**16
