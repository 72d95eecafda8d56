"""Saving a run: whether its state is worth a checkpoint, and its parts in their order."""

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.distributed import from_first_rank, max_over_ranks
from dist_sparse.engines.base import Engine

_log = logging.getLogger(__name__)


def save(
    store: CheckpointStore, step: int, engine: Engine, state: Callable[[], dict[str, Any]], *, best: bool, diverging: bool
) -> bool:
    """Write the checkpoint of a ``step`` unless the run has gone astray: the good ones before must stay. Collective.

    Args:
        state: what to write beside the engine's shards; collective as well.
        diverging: the last losses are not finite.

    Returns:
        Whether it is written; a warning says why not. The same on all ranks.
    """
    with engine.full_parameters():
        bad = _not_finite(engine.model)
    if diverging or max_over_ranks(bad):
        store.refusal = "the loss or the weights are not finite"
        _log.warning("no checkpoint at step %d: %s", step, store.refusal)
        return False
    try:
        shards = engine.save_shards(store.shards(step))
    except OSError as error:
        store.refusal = str(error)
        _log.warning("no checkpoint at step %d: %s; training goes on", step, error)
        return False
    whole = {**state(), "shards": shards}
    return from_first_rank(dist.get_rank() == 0 and store.save(step, whole, best=best))


def _not_finite(model: nn.Module) -> Tensor:
    """1 if some weight is not finite, else 0."""
    return 1 - torch.stack([weight.isfinite().all() for weight in model.parameters()]).all().int()
