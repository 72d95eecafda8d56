"""Who the other ranks are, and which of them has died: a run that loses a rank says so by its name, on the ranks that are left.

At the start each rank leaves its host and process in the store where they meet. A collective that fails on the others says only
that a connection has closed; so each of them looks for the processes on its own host, and lets the rest know. A thread looks
as well, for collectives that would wait on (NCCL, DeepSpeed's shared memory: the former not yet run on a GPU).
"""

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from dist_sparse.errors import EXIT_INCOMPLETE, Incomplete, ToldElsewhere, UserError
from dist_sparse.processes import boot, started

MEETING = 120.0
"""Seconds at most for all ranks to come, after the launcher has started them."""
_ROLL_CALL = 3.0
"""Seconds for the ranks on other hosts to say who has died there, once a collective has failed."""
_LOOK_EVERY = 1.0
_PATIENCE = 10.0
"""Seconds after a death for a collective to fail by itself."""
_NEAR = 32
"""Ranks on either side that may be on the same host."""
_MET, _WORD, _SPEAKER = "dist_sparse/met", "dist_sparse/failure", "dist_sparse/speaker"
_OF_COLLECTIVES = ("gloo", "Gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out", "Socket")
"""What the messages of failed collectives name."""


@dataclass(frozen=True)
class Peer:
    """A rank's process; ``place`` is where its number means something, ``started`` tells it from later ones of that number."""

    rank: int
    host: str
    place: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"

    @property
    def is_gone(self) -> bool:
        """As far as can be seen from here."""
        return self.place == _place() and started(self.pid) != self.started


def _place() -> str:
    """This boot of this host, and its process numbers (containers have their own)."""
    with contextlib.suppress(OSError):
        if name := boot():
            return f"{name} {Path('/proc/self/ns/pid').readlink()}"
    return f"{socket.gethostname()} {os.getpid()}"  # no such files: nobody can look


def publish(store: dist.Store, rank: int) -> None:
    """Leave word of this process."""
    pid = os.getpid()
    mine = Peer(rank, socket.gethostname(), _place(), pid, started(pid) or "")
    store.set(_key(rank), json.dumps(dataclasses.asdict(mine)))


def meet(store: dist.Store, rank: int, world_size: int, *, seconds: float, check: Callable[[], None]) -> None:
    """Leave word of this process, and wait for all others; ``check`` is called now and then and may raise.

    Raises:
        Incomplete: one of them has died meanwhile, or has not come.
    """
    publish(store, rank)
    store.add(_MET, 1)
    deadline, pause = time.monotonic() + seconds, 0.01
    while store.add(_MET, 0) < world_size:
        check()
        if gone := [peer for peer in _neighbours(store, rank, world_size) if peer.is_gone]:
            raise _lost(gone)
        if time.monotonic() > deadline:
            missing = ", ".join(str(other) for other in range(world_size) if not store.check([_key(other)]))
            raise Incomplete(f"ranks {missing} of {world_size} have not come within {seconds:.0f} s: their output says why")
        time.sleep(pause)
        pause = min(2 * pause, 0.5)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Tell what has become of the others if a collective of the block fails, and end the process if it waits for the dead.

    Raises:
        ToldElsewhere: another rank has met a mistake of the user's, and tells it.
        Incomplete: another rank has died or crashed.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    with watched_from(_get_default_store(), dist.get_rank(), dist.get_world_size()):
        yield


@contextlib.contextmanager
def watched_from(store: dist.Store, rank: int, world_size: int) -> Iterator[None]:
    """As :func:`watched`, for a group that is still being made, by ranks that have met in this store."""
    over = threading.Event()
    # By a connection of its own: the main thread may be waiting for an answer on this one, and keeps others from it meanwhile.
    watch = threading.Thread(target=_watch, args=(store.clone(), rank, world_size, over), daemon=True)
    watch.start()
    try:
        yield
    except (UserError, Incomplete) as error:
        if not error.on_all_ranks:
            _leave_word(store, str(error), mendable=isinstance(error, UserError))
        raise
    except RuntimeError as error:
        over.set()
        _explain(store, rank, world_size, error)
        raise
    except Exception as error:
        _leave_word(store, _crash(rank, error), mendable=False)
        raise
    finally:
        over.set()


def _explain(store: dist.Store, rank: int, world_size: int, error: RuntimeError) -> None:
    """Raise what is behind an error of a collective; leave word of another one, which is this rank's own, and return."""
    if not isinstance(error, dist.DistError) and not any(each in str(error) for each in _OF_COLLECTIVES):
        _leave_word(store, _crash(rank, error), mendable=False)
        return
    try:
        lost = _roll_call(store, rank, world_size, error)
        if lost is None:
            return
        _leave_word(store, str(lost), mendable=False)
        lost.reports, lost.at_once = store.add(_SPEAKER, 1) == 1, True
    except dist.DistError:  # without an agent of torchrun the store is the first rank's own
        raise Incomplete(f"rank 0 has died: {_ADVICE}") from error
    raise lost from error


def _roll_call(store: dist.Store, rank: int, world_size: int, error: RuntimeError) -> Incomplete | None:
    """Who is not there any more: by sight on this host, by their silence on others."""
    store.set(f"{_key(rank)}/failed", "")
    peers, deadline = _neighbours(store, rank, world_size), time.monotonic() + _ROLL_CALL
    while time.monotonic() < deadline:
        _raise_word(store, error)  # it may have ended since it had left word
        if gone := [peer for peer in peers if peer.is_gone]:
            return _lost(gone)
        time.sleep(0.1)
    elsewhere = [peer for peer in _known(store, range(world_size)) if peer.place != _place()]
    silent = [peer for peer in elsewhere if not store.check([f"{_key(peer.rank)}/failed"])]
    return _lost(silent, "has died or cannot be reached") if silent else None


def _watch(store: dist.Store, rank: int, world_size: int, over: threading.Event) -> None:
    """End this process if a rank has died on this host and the main thread goes on waiting for it."""
    with contextlib.suppress(dist.DistError):
        peers = _neighbours(store, rank, world_size)
        while peers and not over.wait(_LOOK_EVERY):
            gone = [peer for peer in peers if peer.is_gone]
            if gone and not over.wait(_PATIENCE):
                if not store.check([_WORD]) and store.add(_SPEAKER, 1) == 1:
                    print(f"error: {_lost(gone)}", file=sys.stderr, flush=True)
                os._exit(EXIT_INCOMPLETE)


def _neighbours(store: dist.Store, rank: int, world_size: int) -> list[Peer]:
    """The other ranks on this host, as far as they have come: those of a host follow one another."""
    near = range(max(0, rank - _NEAR), min(world_size, rank + _NEAR + 1))
    return [peer for peer in _known(store, near) if peer.rank != rank and peer.place == _place()]


def _known(store: dist.Store, ranks: Iterable[int]) -> list[Peer]:
    return [Peer(**json.loads(store.get(_key(rank)))) for rank in ranks if store.check([_key(rank)])]


def _leave_word(store: dist.Store, text: str, *, mendable: bool) -> None:
    """Let the ranks whose next collective fails know why it does; ``mendable``: by the user."""
    with contextlib.suppress(RuntimeError):  # the store is gone with the rank that held it
        if not store.check([_WORD]):
            store.set(_WORD, json.dumps([text, mendable]))


def _raise_word(store: dist.Store, error: RuntimeError) -> None:
    if store.check([_WORD]):
        text, mendable = json.loads(store.get(_WORD))
        if mendable:
            raise ToldElsewhere(text) from error
        told = Incomplete(text)
        told.reports, told.at_once = False, _ADVICE in text
        raise told from error


def _crash(rank: int, error: Exception) -> str:
    return f"rank {rank} has crashed: {type(error).__name__}: {error}"


_ADVICE = (
    "the launcher's message or the kernel's log says of what (no memory left, perhaps); resume=auto goes on from the last "
    "checkpoint"
)


def _lost(peers: list[Peer], what: str = "has died") -> Incomplete:
    return Incomplete(f"{', '.join(map(str, peers))} {what}: {_ADVICE}")


def _key(rank: int) -> str:
    return f"dist_sparse/peer/{rank}"
