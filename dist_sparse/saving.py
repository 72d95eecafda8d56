"""Saving a run: whether its state is worth a checkpoint, and its parts in their order."""

import logging
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.distributed import from_first_rank
from dist_sparse.engines.base import Engine
from dist_sparse.finite import Soundness

_log = logging.getLogger(__name__)


def save(
    store: CheckpointStore,
    engine: Engine,
    soundness: Soundness,
    state_dict: Callable[[], dict[str, Any]],
    *,
    step: int,
    best: bool,
    diverging: bool,
) -> bool:
    """Write the checkpoint of a ``step`` unless the run has diverged: the good ones before must stay. Collective.

    Args:
        state_dict: what to write beside the engine's shards; collective as well.
        diverging: the last losses are not finite.

    Returns:
        Whether it is written; a warning says why not. The same on all ranks.
    """
    if diverging:
        store.refusal = "the loss is not finite"
        _log.warning("no checkpoint at step %d: %s", step, store.refusal)
        return False
    state = state_dict()
    if complaints := soundness.complaints(state):
        more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        store.refusal = f"not finite: {', '.join(complaints[:3])}{more}"
        _log.warning("no checkpoint at step %d: %s", step, store.refusal)
        return False
    try:
        shards = engine.save_shards(store.shards(step))
    except OSError as error:
        store.refusal = str(error)
        _log.warning("no checkpoint at step %d: %s; training goes on", step, error)
        return False
    return from_first_rank(dist.get_rank() == 0 and store.save(step, {**state, "shards": shards}, best=best))
