"""The training command, in which rank 1 crashes in its seventh step. To be started by torchrun."""

from functools import partial
from typing import TYPE_CHECKING

from dist_sparse import train
from dist_sparse.leaving import leave

if TYPE_CHECKING:
    from dist_sparse.trainer import Moment, Trainer


def fail_at_step_7(moment: "Moment", trainer: "Trainer") -> None:
    if moment.name == "GRADIENTS_READY" and trainer.progress.step == 6 and trainer.ranks.rank == 1:
        raise RuntimeError("rank 1 had enough")


if __name__ == "__main__":
    leave(partial(train.main, hooks=[fail_at_step_7]), on_all_ranks=True)
