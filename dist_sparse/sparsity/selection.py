"""Exact selection of the best units, the same on every device and in every run.

Units compete within rows: a score ``[S, U]`` holds S independent competitions between U units. The order is by score,
highest first, and by index, lowest first, where scores are equal (``torch.topk`` promises no order between equal scores).
"""

import torch
from torch import Tensor


def top_k(score: Tensor, k: Tensor, among: Tensor) -> Tensor:
    """The k best candidates of each row.

    Args:
        score: finite [S, U].
        k: int64 [S] on the CPU, each from 0 to the row's number of candidates.
        among: bool [S, U], the candidates.

    Returns:
        bool [S, U] with exactly ``k[s]`` true in row s, all of them candidates.
    """
    score = torch.where(among, score, -torch.inf)
    return _top_k_row(score, int(k)) if len(score) == 1 else _top_k_rows(score, k)


def drop_and_grow(active: Tensor, keep_score: Tensor, grow_score: Tensor, drop: Tensor) -> Tensor:
    """Drop the worst active units of each row and grow as many of the best that are then inactive.

    A unit that was just dropped may grow again. The number of active units of each row does not change.

    Args:
        active: bool [S, U].
        keep_score: finite [S, U]; the active units that score least are dropped.
        grow_score: finite [S, U]; the inactive units that score most are grown.
        drop: int64 [S] on the CPU, each at most the row's number of active units.

    Returns:
        bool [S, U], the units active afterwards.
    """
    keep = active.sum(1).cpu() - drop
    kept = top_k(keep_score, keep, among=active)
    return kept | top_k(grow_score, drop, among=~kept)


def _top_k_row(score: Tensor, k: int) -> Tensor:
    """One row [1, U]: find the k-th best score, then give up surplus equals from the end."""
    if k == 0:
        return torch.zeros_like(score, dtype=torch.bool)
    flat = score.view(-1)
    threshold = _kth_largest(flat, k)
    chosen = flat >= threshold
    surplus = int(chosen.count_nonzero()) - k
    if surplus:
        tied = (flat == threshold).nonzero().view(-1)
        chosen[tied[-surplus:]] = False
    return chosen.view_as(score)


def _kth_largest(values: Tensor, k: int, stride: int = 64) -> Tensor:
    """The k-th largest of ``values`` [U], exactly.

    A sample bounds the answer from below, so that the selection itself runs on little more than k values; should the bound
    be too high (it is checked), all values are searched.
    """
    sample = values[::stride]
    rank = k / stride
    rank = int(rank + 4 * rank**0.5) + 8  # four standard deviations and a little
    if rank < len(sample):
        bound = sample.kthvalue(len(sample) - rank + 1).values
        upper = values[values >= bound]
        if len(upper) >= k:
            values = upper
    return values.kthvalue(len(values) - k + 1).values


def _top_k_rows(score: Tensor, k: Tensor) -> Tensor:
    """Many rows, each with its own k: a stable sort keeps equal scores in the order of their index."""
    order = score.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(score.shape[1], device=score.device) < k.to(score.device)[:, None]
    return torch.zeros_like(chosen).scatter_(1, order, chosen)
