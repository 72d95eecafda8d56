"""The training command, in which rank 1 is killed in its seventh step, once. To be started by torchrun."""

import os
import signal
import sys

from dist_sparse import train
from dist_sparse.trainer import Moment, Trainer


def die_at_step_7(moment: Moment, trainer: Trainer) -> None:
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and moment is Moment.GRADIENTS_READY and trainer.progress.step == 6 and trainer.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(train.main(hooks=[die_at_step_7]))
