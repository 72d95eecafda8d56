"""One process at a time trains in a run's folder: it holds the file ``lock`` there, and renews it while it lives.

The file is filelock's ``SoftFileLease``. It needs no more of a file system than that a file is created once, so NFS will do,
and it compares no clocks. A holder on this host counts as dead once its process has gone (whatever has its number now), one on
another host once nobody has renewed the file for ``SECONDS`` that we have watched it. So a killed run can be started again at
once where it was, and elsewhere after that time.
"""

import os
import socket
import sys
from pathlib import Path

from filelock import LeaseCompromise, SoftFileLease, Timeout

from dist_sparse.errors import UserError

SECONDS = 60.0
"""Seconds of silence after which the holder of a lease counts as dead. All that start in one folder must agree on it."""
RENEWALS = 6
"""How often a holder renews its lease in that time."""
_MARGIN = 5.0


def take(folder: Path) -> SoftFileLease:
    """The lease of a run's folder, until ``release`` is called once or this process ends. (``with`` would acquire it again.)

    Raises:
        UserError: another process is training there, which the message names.
        OSError: as the file system says.
    """
    lease = SoftFileLease(
        folder / "lock",
        lease_duration=SECONDS,
        heartbeat_interval=SECONDS / RENEWALS,
        on_compromise=_lost,
        thread_local=False,
        poll_interval=0.5,
    )
    try:
        lease.acquire(timeout=0)
    except Timeout:
        owner = lease.owner
        if owner is not None and _is_here(owner.hostname):
            raise _taken(folder, lease) from None
        print(f"{folder} may be trained by {_name(lease)}: watching its lock for up to {SECONDS:.0f} s", flush=True)
        try:
            lease.acquire(timeout=SECONDS + _MARGIN)
        except Timeout:
            raise _taken(folder, lease) from None
    return lease


def _taken(folder: Path, lease: SoftFileLease) -> UserError:
    return UserError(
        f"output={folder} is being trained by {_name(lease)}: give this run another output, or start it again after that one"
    )


def _name(lease: SoftFileLease) -> str:
    owner = lease.owner
    return "another process" if owner is None else f"process {owner.pid} on {owner.hostname.partition('?')[0]}"


def _is_here(hostname: str) -> bool:
    """filelock has seen that such a process is alive. It adds its PID namespace to the name of the host."""
    return hostname.partition("?")[0] == socket.gethostname()


def _lost(loss: LeaseCompromise) -> None:
    """Another process has taken this one for dead, after a minute in which it could not write, and trains here now."""
    if loss.reason == "owner-changed":
        text = "another process trains here since this one has not renewed it for so long: ending at once, without a checkpoint"
        print(f"error: {loss.lock_file}: {text}", file=sys.stderr, flush=True)
        os._exit(1)
    print(f"WARNING: {loss.lock_file} could not be renewed ({loss.reason}): do not start this run twice", file=sys.stderr)
