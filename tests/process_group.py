"""The process group of a test that needs one in its own process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from dist_sparse import distributed
from dist_sparse.config.engine import EngineConfig


@contextmanager
def of_one() -> Iterator[None]:
    """A group of one process; one that another test module has left running stays."""
    started_here = not dist.is_initialized()
    distributed.start(EngineConfig(device="cpu"))
    yield
    if started_here:
        distributed.stop()
