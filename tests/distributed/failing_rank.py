"""The training command, in which rank 1 crashes in its seventh step. To be started by torchrun."""

import sys

from dist_sparse import train
from dist_sparse.trainer import Moment, Trainer


def fail_at_step_7(moment: Moment, trainer: Trainer) -> None:
    if moment is Moment.GRADIENTS_READY and trainer.progress.step == 6 and trainer.ranks.rank == 1:
        raise RuntimeError("rank 1 had enough")


if __name__ == "__main__":
    sys.exit(train.main(hooks=[fail_at_step_7]))
