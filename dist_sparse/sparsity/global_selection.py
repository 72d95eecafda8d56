"""Exact selection of the best units of a whole network, without gathering scores.

Each rank holds the scores of some layers. Floats that are not negative are ordered as their bits are, read as integers, so
the score of the last unit to stay is found a few bits at a time: every rank counts its scores by their next 11 bits, the
counts are summed over ranks, and the bin in which the sum from above reaches the number wanted is searched further. Three
sums of at most 2,048 counts settle float32, six float64; one more settles what ties, in the order (layer, index).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

_DIGITS = {torch.float32: (11, 11, 9), torch.float64: (11, 11, 11, 11, 11, 8)}
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def global_top_k(
    scores: Mapping[str, Tensor],
    among: Mapping[str, Tensor],
    k: int,
    *,
    layers: Sequence[str],
    sizes: Mapping[str, int],
    dtype: torch.dtype,
    device: torch.device,
    total: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The best candidates of all layers on all ranks whose sizes add up to ``k`` at most. Collective.

    Units are taken from the best on until the next does not fit; where all sizes are 1 that makes exactly ``k``, or all
    candidates if there are fewer.

    Args:
        scores: of this rank's layers; not negative, of any shape.
        among: the candidates, bool, of the scores' shapes.
        k: sum of sizes to keep, the same on every rank.
        layers: all layers of all ranks in the order in which ties are settled, the same on every rank.
        sizes: weights in a unit, of every layer.
        dtype: in which scores are compared, float32 or float64, the same on every rank.
        device: of the counts that are summed.
        total: sums a tensor of int64 over all ranks, in place.

    Returns:
        This rank's layers' chosen units, bool, of the scores' shapes.
    """
    keys = {name: score.to(dtype).contiguous().view(_INTEGERS[dtype]) for name, score in scores.items()}
    candidates = {name: key[among[name]] for name, key in keys.items()}
    threshold, left = _threshold(
        candidates, k, sizes, _DIGITS[dtype], lambda: torch.zeros(2048, dtype=torch.int64, device=device), total
    )
    ties = torch.zeros(len(layers), dtype=torch.int64, device=device)
    for name, key in keys.items():
        ties[layers.index(name)] = ((key == threshold) & among[name]).count_nonzero()
    quotas = _settle(dict(zip(layers, total(ties).tolist(), strict=True)), left, sizes)
    return {name: _choose(key, among[name], threshold, quotas[name]) for name, key in keys.items()}


def _threshold(
    candidates: dict[str, Tensor],
    k: int,
    sizes: Mapping[str, int],
    digits: Sequence[int],
    zeros: Callable[[], Tensor],
    total: Callable[[Tensor], Tensor],
) -> tuple[int, int]:
    """The score (as an integer) above which all stay, and how much of ``k`` is left for units of that very score."""
    threshold, shift = 0, sum(digits)
    for width in digits:
        shift -= width
        counts = zeros()
        for name, key in candidates.items():
            digit = (key >> shift) & ((1 << width) - 1)
            counts += torch.bincount(digit, minlength=len(counts)) * sizes[name]
        bin_, above = _bin_of(total(counts), k)
        k -= above
        threshold |= bin_ << shift
        candidates = {name: key[key >> shift == threshold >> shift] for name, key in candidates.items()}
    return threshold, k


def _bin_of(counts: Tensor, k: int) -> tuple[int, int]:
    """The highest bin whose count and all above make more than or as much as ``k`` (bin 0 if none), and the sum above it."""
    from_above = counts.flip(0).cumsum(0)
    place = min(int((from_above < k).count_nonzero()), len(counts) - 1)
    return len(counts) - 1 - place, int(from_above[place] - counts.flip(0)[place])


def _settle(ties: Mapping[str, int], left: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """How many of each layer's equal units stay: the first ones, until one does not fit."""
    quotas = dict.fromkeys(ties, 0)
    for name, count in ties.items():
        quotas[name] = min(count, left // sizes[name])
        left -= quotas[name] * sizes[name]
        if quotas[name] < count:
            break
    return quotas


def _choose(key: Tensor, among: Tensor, threshold: int, quota: int) -> Tensor:
    chosen = (key > threshold) & among
    if quota:
        tied = ((key == threshold) & among).view(-1).nonzero().view(-1)
        chosen.view(-1)[tied[:quota]] = True
    return chosen
