"""The first masks, as ``sparsity.init`` says."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import Structure

if TYPE_CHECKING:
    from dist_sparse.sparsity.methods.base import Method


def best_units(score: Tensor, units: int, structure: Structure) -> Tensor:
    """The mask of a layer that keeps in each selection set the ``units`` best by a weight-shaped score."""
    unit_score = structure.score(score)
    chosen = top_k(unit_score, torch.full((len(unit_score),), units), among=torch.ones_like(unit_score, dtype=torch.bool))
    return structure.mask(chosen, score.shape, choose_by=score)


def initial_masks(method: "type[Method]", context: Context, units: Mapping[str, int]) -> Callable[[str], Tensor]:
    """By layer name its first mask: random, of its largest weights, or taken over, ``units`` a selection set.

    In a run that goes on, random ones stand in for those that were taken over, until the checkpoint's are loaded.
    """
    if context.carried is not None and context.carried.masks is not None:
        masks, device = context.carried.masks, context.run.device
        return lambda name: masks[name].to(device)
    by_size = context.config.init == "magnitude" and "magnitude" in method.inits
    return largest_masks(context, units) if by_size else context.random_masks(units)


def largest_masks(context: Context, units: Mapping[str, int]) -> Callable[[str], Tensor]:
    """By layer name the mask of its largest weights, ``units`` a selection set."""
    return lambda name: best_units(scores.magnitude(context.weights[name]), units[name], context.structure)
