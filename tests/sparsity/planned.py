"""Plans for methods that a test builds by hand, on weights and masks of its own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.context import Context, RunFacts
from dist_sparse.sparsity.structures import Structure, Unstructured


def by_hand(method: type[Method], weights: Mapping[str, Tensor], structure: Structure | None = None) -> dict[str, Any]:
    """The fields of :class:`Plan`, for a run of one step on one rank whose first masks are given to the method."""
    run = RunFacts(seed=0, steps_per_epoch=1, total_steps=1, rank=0, world_size=1, device=torch.device("cpu"))
    context = Context(config=SparsityConfig(), run=run, structure=structure or Unstructured(), weights=weights)
    return {"method": method, "context": context, "initial_mask": weights.__getitem__, "active": {}}
