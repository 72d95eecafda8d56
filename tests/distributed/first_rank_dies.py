"""The training command on ranks of which the first is killed: before they have met, just after, or in its seventh step."""

import os
import signal
from collections.abc import Sequence
from typing import Any
from unittest import mock

from torch import distributed as dist

from dist_sparse import peers, run, train
from dist_sparse.preemption import CommonStop
from dist_sparse.trainer import Moment, Trainer

meet = peers.meet


def die_before(store: dist.Store, rank: int, world_size: int, **more: Any) -> None:
    """The others shall see that rank 0 has come, and is gone; rank 1 comes too late."""
    if rank == 0:
        peers.publish(store, rank)
        os.kill(os.getpid(), signal.SIGKILL)
    store.wait([peers._key(0)])
    while not peers._neighbours(store, rank, world_size)[0].is_gone:
        pass
    meet(store, rank, world_size, **more)


class DeadlyStop(CommonStop):
    """To make its group the other ranks wait for the address of rank 0, which never comes."""

    def __init__(self, *arguments: Any) -> None:
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(*arguments)


def die_at_step_7(moment: Moment, trainer: Trainer) -> None:
    if moment is Moment.GRADIENTS_READY and trainer.progress.step == 6 and trainer.ranks.is_first:
        os.kill(os.getpid(), signal.SIGKILL)


def main(place: str, argv: Sequence[str]) -> int:
    if place == "in a step":
        return train.main(argv, hooks=[die_at_step_7])
    before = place == "before they meet"
    with mock.patch.object(peers, "meet", die_before) if before else mock.patch.object(run, "CommonStop", DeadlyStop):
        return train.main(argv)
