"""The training command, in which rank 1 is killed in its seventh step, once. To be started by torchrun."""

import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from dist_sparse import train
from dist_sparse.leaving import leave

if TYPE_CHECKING:
    from dist_sparse.trainer import Moment, Trainer


def die_at_step_7(moment: "Moment", trainer: "Trainer") -> None:
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and moment.name == "GRADIENTS_READY" and trainer.progress.step == 6 and trainer.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    leave(partial(train.main, hooks=[die_at_step_7]), on_all_ranks=True)
