"""Exact selection of the best units, the same on every device and in every run.

Units compete within rows: a score ``[S, U]`` holds S independent competitions between U units. The order is by score,
highest first, and by index, lowest first, where scores are equal (``torch.topk`` promises no order between equal scores).
"""

import torch
from torch import Tensor

from dist_sparse.sparsity.tensors import count_true, select, where_true

_LONG = 1 << 16
"""Units of a row from which on a sample of them bounds the best ones closely."""
_SHORT = 8
"""Units of a row up to which comparing them in pairs is faster than sorting."""


def top_k(score: Tensor, k: Tensor, among: Tensor) -> Tensor:
    """The k best candidates of each row.

    Args:
        score: finite [S, U].
        k: int64 [S] on the CPU, each from 0 to the row's number of candidates.
        among: bool [S, U], the candidates.

    Returns:
        bool [S, U] with exactly ``k[s]`` true in row s, all of them candidates.
    """
    if len(score) == 1:
        return best_of_row(score.view(-1), int(k), among.view(-1)).view_as(score)
    select = _top_k_short_rows if score.shape[1] <= _SHORT else _top_k_rows
    return select(torch.where(among, score, -torch.inf), k)


def at_least_top_k(score: Tensor, k: int, among: Tensor) -> Tensor:
    """Candidates [S, U] of which the ``k`` best of each row (all of a row that has fewer) are some.

    In a long row they are found by a sample, and are some more than k.
    """
    counts = _counts(among).clamp(max=k)
    if len(score) > 1:
        return top_k(score, counts, among)
    if not counts.any():
        return torch.zeros_like(among)
    row, k, candidates = score.view(-1), int(counts), among.view(-1)
    upper = _upper(row, k, candidates) if len(row) >= _LONG else None
    if upper is None:
        upper = (row >= _kth_largest(row, k, candidates)) & candidates
    return upper.view_as(among)


def drop_and_grow(active: Tensor, kept: Tensor, grow_score: Tensor, grow: Tensor | None = None) -> Tensor:
    """Grow in each row as many units as it drops (or ``grow``): the best of those that are then inactive.

    A unit that was just dropped may grow again.

    Args:
        active: bool [S, U].
        kept: bool [S, U], those of them that are not dropped (see :func:`best_of_all_rows`).
        grow_score: finite [S, U].
        grow: int64 [S] on the CPU, each at most the row's number of units that are then inactive.

    Returns:
        bool [S, U], the units active afterwards.
    """
    if grow is None:
        grow = _counts(active) - _counts(kept)
    return kept | top_k(grow_score, grow, among=~kept)


def best_of_all_rows(score: Tensor, k: int, among: Tensor) -> Tensor:
    """The ``k`` best candidates [S, U] of all rows together.

    A fraction of short rows taken row by row would round to nothing, or to far too much: 30 % of the 2 active units of a 2:4
    group. Taken over all rows it is exact, and rows that hold the worst units lose more (as in SRigL, arXiv 2305.02299).
    """
    return best_of_row(score.reshape(-1), k, among.reshape(-1)).view_as(among)


def best_of_row(score: Tensor, k: int, among: Tensor) -> Tensor:
    """The ``k`` best candidates of one row [U]: find the k-th best score, then give up surplus equals from the end."""
    if k == 0:
        return torch.zeros_like(among)
    threshold = _kth_largest(score, k, among)
    chosen = (score >= threshold) & among
    surplus = count_true(chosen) - k
    if surplus:
        tied = where_true(chosen & (score == threshold))
        chosen[tied[-surplus:]] = False
    return chosen


def _kth_largest(score: Tensor, k: int, among: Tensor, stride: int = 64) -> Tensor:
    """The k-th largest of the candidates' scores [U], exactly."""
    upper = _upper(score, k, among, stride)
    candidates = select(score, among if upper is None else upper)
    return candidates.kthvalue(len(candidates) - k + 1).values


def _upper(score: Tensor, k: int, among: Tensor, stride: int = 64) -> Tensor | None:
    """Little more than k candidates, all that score at least a bound, and the k best among them; None if it takes them all.

    A sample bounds the k-th best score from below; should the bound be too high, which is checked, none is told.
    """
    sample = select(score[::stride], among[::stride])
    rank = k / stride
    rank = int(rank + 4 * rank**0.5) + 8  # four standard deviations and a little
    if rank >= len(sample):
        return None
    upper = (score >= sample.kthvalue(len(sample) - rank + 1).values) & among
    return upper if count_true(upper) >= k else None


def _counts(mask: Tensor) -> Tensor:
    """How many are true in each row: int64 [S] on the CPU."""
    return torch.tensor([count_true(mask)]) if len(mask) == 1 else mask.sum(1).cpu()


def _top_k_short_rows(score: Tensor, k: Tensor) -> Tensor:
    """As :func:`_top_k_rows`, by comparing every unit with every other: several times faster for the groups of N:M."""
    units = score.unbind(1)
    chosen, k = torch.empty_like(score, dtype=torch.bool), k.to(score.device)
    for place, unit in enumerate(units):
        better = torch.zeros_like(unit, dtype=torch.uint8)
        for index, other in enumerate(units):
            if index != place:
                better += other >= unit if index < place else other > unit
        torch.lt(better, k, out=chosen[:, place])
    return chosen


def _top_k_rows(score: Tensor, k: Tensor) -> Tensor:
    """Many rows, each with its own k: a stable sort keeps equal scores in the order of their index."""
    order = score.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(score.shape[1], device=score.device) < k.to(score.device)[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen)
