"""The training command on two ranks, of which the first is killed before they have met, or just after."""

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any
from unittest import mock

from torch import distributed as dist

from dist_sparse import peers, run, train
from dist_sparse.preemption import CommonStop

meet = peers.meet


def die_before(store: dist.Store, rank: int, world_size: int, **more: Any) -> None:
    """The others shall see that rank 0 has come, and is gone; rank 1 comes too late."""
    if rank == 0:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start()
        meet(store, rank, world_size, **more)
    store.wait([peers._key(0)])
    while not peers._neighbours(store, rank, world_size)[0].is_gone:
        pass
    store.add(peers._MET, -1)
    meet(store, rank, world_size, **more)


class DeadlyStop(CommonStop):
    """To make its group the other ranks wait for the address of rank 0, which never comes."""

    def __init__(self, *arguments: Any) -> None:
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(*arguments)


def main(place: str, argv: Sequence[str]) -> int:
    before = place == "before they meet"
    with mock.patch.object(peers, "meet", die_before) if before else mock.patch.object(run, "CommonStop", DeadlyStop):
        return train.main(argv)
