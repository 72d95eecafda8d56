"""Which active units an update drops, and which stay."""

from typing import Literal

import torch
from torch import Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.schedules import drop_count
from dist_sparse.sparsity.selection import best_of_all_rows, top_k
from dist_sparse.sparsity.structures import Structure
from dist_sparse.sparsity.tensors import count_true

Removal = Literal["magnitude", "set", "threshold", "taylor"]


def removal(
    kind: Removal,
    structure: Structure,
    weight: Tensor,
    active: Tensor,
    fraction: float,
    *,
    round_up: bool,
    threshold: float | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """Which of the ``active`` units [S, U] stay.

    The fraction is of all active units, and all rows' worst go (see :func:`.best_of_all_rows`).

    ``magnitude``: the smallest. ``set``: the smallest of each sign, as many of each as their share (Mocanu et al., 2018; units
    of one weight). ``threshold``: those smaller than ``threshold``, whatever the fraction. ``taylor``: those of smallest
    |w * g|, which orders as (w * g)^2, the squared change of the loss to first order (Molchanov et al., 2017), and does not
    underflow.
    """
    score = structure.score(scores.magnitude(weight))
    if kind == "threshold":
        assert threshold is not None, "resolve() asks for one"
        return active & (score >= threshold)
    total = count_true(active)
    count = drop_count(fraction, total, up=round_up)
    if kind == "set":
        signed = structure.split(weight.detach()).reshape(1, -1)
        kept = _kept_by_sign(score.reshape(1, -1), signed, active.reshape(1, -1), torch.tensor([count]))
        return kept.view_as(active)
    if kind == "taylor":
        assert gradient is not None, "collected for the update"
        score = structure.score(scores.magnitude(weight * gradient))
    return best_of_all_rows(score, total - count, among=active)


def _kept_by_sign(score: Tensor, signed: Tensor, active: Tensor, drop: Tensor) -> Tensor:
    """Which units [1, U] stay where each sign loses its smallest; ``drop`` is shared out in proportion."""
    negative = active & (signed < 0)
    positive = active & ~negative
    counts = active.sum(1).cpu()
    positives = positive.sum(1).cpu()
    lost = (2 * drop * positives + counts) // (2 * counts).clamp(min=1)
    kept = top_k(score, positives - lost, among=positive)
    return kept | top_k(score, counts - positives - (drop - lost), among=negative)
