"""Commands on ranks of which the first is killed: training at one of several places of its start, or in its seventh step; and
evaluating as validation begins, where it may also meet a mistake of the user's."""

import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

from torch import distributed as dist

from dist_sparse import evaluate, peers, run, train, validation
from dist_sparse.errors import UserError
from dist_sparse.leaving import leave
from dist_sparse.preemption import CommonStop
from dist_sparse.trainer import Moment, Trainer

meet, init_process_group, validate = peers.meet, dist.init_process_group, validation.validate


def die_before(store: dist.Store, rank: int, world_size: int, **more: Any) -> None:
    """The others shall see that rank 0 has come, and is gone; rank 1 comes too late."""
    if rank == 0:
        peers.publish(store, rank)
        os.kill(os.getpid(), signal.SIGKILL)
    store.wait([peers._key(0)])
    while not peers._neighbours(store, rank, world_size)[0].is_gone:
        pass
    meet(store, rank, world_size, **more)


def die_in_group(*arguments: Any, **more: Any) -> None:
    """The group is made, but the first rank has not left word in its store."""
    init_process_group(*arguments, **more)
    if os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyStop(CommonStop):
    """To make its group the other ranks wait for the address of rank 0, which never comes."""

    def __init__(self, *arguments: Any) -> None:
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        super().__init__(*arguments)


def die_at_step_7(moment: Moment, trainer: Trainer) -> None:
    if moment is Moment.GRADIENTS_READY and trainer.progress.step == 6 and trainer.ranks.is_first:
        os.kill(os.getpid(), signal.SIGKILL)


DEADLY: dict[str, tuple[object, str, object]] = {
    "before they meet": (peers, "meet", die_before),
    "in the group": (dist, "init_process_group", die_in_group),
    "after they met": (run, "CommonStop", DeadlyStop),
}


def main(place: str, argv: Sequence[str]) -> int:
    if place == "in a step":
        return train.main(argv, hooks=[die_at_step_7])
    with mock.patch.object(*DEADLY[place]):
        return train.main(argv)


def evaluating(mistake: str, argv: Sequence[str]) -> int:
    """Without the text of a ``mistake`` the first rank is killed."""

    def fail(*arguments: Any) -> dict[str, float]:
        if dist.get_rank() > 0:
            return validate(*arguments)
        if mistake:
            raise UserError(mistake)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")

    with mock.patch.object(validation, "validate", fail):
        leave(partial(evaluate.main, argv), on_all_ranks=True)
