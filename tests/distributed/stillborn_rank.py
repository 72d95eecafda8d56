"""The training command, in which rank 0 is killed before the ranks have met, or just after. To be started by torchrun."""

import os
import signal
import sys
import threading
from typing import Any
from unittest import mock

from torch import distributed as dist

from dist_sparse import peers, run, train

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


def die_after(*arguments: Any) -> Any:
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare(*arguments)


prepare = run._prepare

if __name__ == "__main__":
    place = sys.argv.pop(1)
    name, stand_in = (peers, die_before) if place == "before they meet" else (run, die_after)
    with mock.patch.object(name, "meet" if name is peers else "_prepare", stand_in):
        sys.exit(train.main())
