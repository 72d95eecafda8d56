"""Worker processes of a DataLoader: they end with the run, however it ends, and not before.

Signals to the whole process group (a batch system's, torchrun's, Ctrl-C) must not end them before the last step is made,
so they ignore them; but then Python's exit, which asks daemon processes by SIGTERM and waits for them, would never end.
"""

import atexit
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import weakref
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from dist_sparse.data.batch import Closable
from dist_sparse.preemption import leave_signals_to_parent

_PR_SET_PDEATHSIG = 1
"""An option of Linux's prctl: the signal that a process gets when its parent dies."""
_SECONDS = 1.0
"""For the kernel to end a killed process. One that waits for a disk may take longer; nobody has to see that."""


def begin_worker(number: int) -> None:
    """In a worker, before its first sample: leave signals to the parent, but die with it, even of its SIGKILL."""
    leave_signals_to_parent(number)
    die_with_parent()


def die_with_parent() -> None:
    """In a process that multiprocessing has started: end with the one that started it, however that ends."""
    parent = multiprocessing.parent_process()
    with contextlib.suppress(OSError, AttributeError):  # not Linux: torch's own watch takes five seconds longer
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # it died before it could be told


def begin_pass(loader: "DataLoader[Any]", holder: Closable) -> Iterator[Any]:
    """Iterate over a loader. The first pass starts its worker processes, which end with this one if nobody ends them."""
    if loader.num_workers == 0 or loader._iterator is not None:
        return iter(loader)
    # Else a worker may free what is garbage here. A pipeline of DALI's ends its threads then, and waits for ever: the fork has
    # left them behind.
    gc.collect()
    samples = iter(loader)
    # Exit functions run in the reverse order: ours comes before that of multiprocessing, which would wait.
    atexit.register(_close, weakref.ref(holder))
    return samples


def end_workers(loader: "DataLoader[Any]") -> None:
    """Kill the worker processes of a loader, whatever they do; its iterator is of no use any more.

    They hold nothing that would have to be saved, and torch's own way waits up to ten seconds for each.
    """
    iterator: Any = loader._iterator
    loader._iterator = None
    workers = getattr(iterator, "_workers", ())
    if iterator is None or not workers:
        return
    from torch.utils.data._utils import signal_handling

    signal_handling._remove_worker_pids(id(iterator))  # torch raises from a signal handler when one dies that is listed
    vars(iterator).update(_worker_pids_set=False, _shutdown=True)
    if (done := getattr(iterator, "_pin_memory_thread_done_event", None)) is not None:
        done.set()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(_SECONDS)
    for queue in (*iterator._index_queues, iterator._worker_result_queue):
        queue.cancel_join_thread()  # what nobody reads any more must not hold up the exit
        queue.close()


def _close(holder: "weakref.ref[Closable]") -> None:
    if (alive := holder()) is not None:
        alive.close()
