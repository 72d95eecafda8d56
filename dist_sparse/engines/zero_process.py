"""What DeepSpeed and its set-up change for the whole process, and putting it back.

Its stage 3 replaces ``torch.nn.functional.linear`` and leaves it so. The replacement rounds otherwise, and whoever knows the
function by its identity, as the count of FLOPs does, no longer finds it.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from torch.nn import functional

_LOGGER = "DeepSpeed"


def borrowed_process(device_type: str) -> ExitStack:
    """Set the process up for an engine of DeepSpeed; closing what is returned gives it back as it was.

    Where engines overlap, each gives back what it found.
    """
    with ExitStack() as found:
        found.callback(setattr, functional, "linear", functional.linear)
        logger = logging.getLogger(_LOGGER)
        found.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        found.enter_context(_environment(DS_ACCELERATOR=device_type, LOCAL_RANK=os.environ.get("LOCAL_RANK", "0")))
        import deepspeed
        from deepspeed.runtime import torch_autocast

        logger.setLevel(logging.ERROR)  # importing sets it anew
        # An operation for inference alone, which would be compiled for a minute at the first start.
        operations: Any = deepspeed.ops.__compatible_ops__
        found.callback(operations.update, deepspeed_shm_comm=operations.get("deepspeed_shm_comm"))
        operations["deepspeed_shm_comm"] = False
        for flag in ("TORCH_AUTOCAST_INITIALIZED", "TORCH_AUTOCAST_DTYPE"):
            found.callback(setattr, torch_autocast, flag, getattr(torch_autocast, flag))
        torch_autocast.TORCH_AUTOCAST_INITIALIZED = False  # by an engine that is still there
        _forget_dead_groups()
        return found.pop_all()


def _forget_dead_groups() -> None:
    """DeepSpeed keeps its groups of ranks for good, also when the world that they were made in has been destroyed."""
    from deepspeed.utils import groups
    from torch.distributed.distributed_c10d import _world

    if groups._WORLD_GROUP is not None and groups._WORLD_GROUP not in _world.pg_map:
        groups._release_process_group_references()


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables have these values within the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
