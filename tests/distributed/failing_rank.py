"""The training command, in which rank 1 crashes in its seventh step. To be started by torchrun."""

import sys
from typing import Any

from dist_sparse import train
from dist_sparse.trainer import Trainer

optimizer_step = Trainer._optimizer_step


def fail_at_step_7(trainer: Trainer, step: int) -> Any:
    if step == 7 and trainer.ranks.rank == 1:
        raise RuntimeError("rank 1 had enough")
    return optimizer_step(trainer, step)


if __name__ == "__main__":
    setattr(Trainer, "_optimizer_step", fail_at_step_7)  # noqa: B010
    sys.exit(train.main())
