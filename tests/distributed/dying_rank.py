"""The training command, in which rank 1 is killed in its seventh step, once. To be started by torchrun."""

import os
import signal
import sys
from typing import Any

from dist_sparse import train
from dist_sparse.trainer import Trainer

optimizer_step = Trainer._optimizer_step


def die_at_step_7(trainer: Trainer, step: int) -> Any:
    if step == 7 and trainer.ranks.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return optimizer_step(trainer, step)


if __name__ == "__main__":
    setattr(Trainer, "_optimizer_step", die_at_step_7)  # noqa: B010
    sys.exit(train.main())
