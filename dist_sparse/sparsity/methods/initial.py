"""Initial masks that look at the weights of the initialisation."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import Structure


def best_units(score: Tensor, units: int, structure: Structure) -> Tensor:
    """The mask of a layer that keeps in each selection set the ``units`` best by a weight-shaped score."""
    unit_score = structure.score(score)
    chosen = top_k(unit_score, torch.full((len(unit_score),), units), among=torch.ones_like(unit_score, dtype=torch.bool))
    return structure.mask(chosen, score.shape, choose_by=score)


def largest_masks(context: Context, units: Mapping[str, int]) -> Callable[[str], Tensor]:
    """By layer name the mask of its largest weights, ``units`` a selection set."""
    return lambda name: best_units(scores.magnitude(context.weights[name]), units[name], context.structure)
