"""Dropping and growing of single weights where the engine holds entries of tensors: the same choices, without whole tensors.

Entries are in the order of their positions, so that equal scores are told apart as they are in whole tensors.
"""

import torch
from torch import Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.entries import Entries
from dist_sparse.sparsity.schedules import drop_count
from dist_sparse.sparsity.selection import best_of_row
from dist_sparse.sparsity.tensors import count_true, where_true


def kept_by_magnitude(weight: Entries, fraction: float, *, round_up: bool) -> Tensor:
    """Which weights [1, U] stay where ``weight`` holds the active ones and a fraction of them is dropped, the smallest."""
    score = scores.magnitude(weight.values)
    count = len(score) - drop_count(fraction, len(score), up=round_up)
    chosen = best_of_row(score, count, torch.ones_like(score, dtype=torch.bool))
    kept = torch.zeros((1, weight.shape.numel()), dtype=torch.bool, device=score.device)
    kept.view(-1).index_fill_(0, weight.positions.index_select(0, where_true(chosen)).long(), value=True)
    return kept


def grow_by_magnitude(active: Tensor, kept: Tensor, gradient: Entries) -> Tensor | None:
    """The active weights [1, U] after as many grew as were dropped, the largest of ``gradient``.

    None where fewer of its entries are inactive, so that entries that are 0 would have to grow.
    """
    inactive = ~kept.view(-1).index_select(0, gradient.positions)
    count = count_true(active) - count_true(kept)
    if count_true(inactive) < count:
        return None
    chosen = best_of_row(scores.magnitude(gradient.values), count, inactive)
    grown = gradient.positions.index_select(0, where_true(chosen)).long()
    return kept.view(-1).index_fill(0, grown, value=True).view_as(kept)
