"""How many weights each layer grows where layers share what all of them have dropped.

Everything here is computed on every rank from the same numbers, and in whole numbers and fractions: ranks cannot differ.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from torch import Tensor

from dist_sparse.sparsity import scores

Redistribution = Literal["none", "magnitude", "momentum", "nonzeros"]


def importance(kind: Redistribution, mask: Tensor, weight: Tensor, average: Tensor | None) -> float:
    """What a layer's share is in proportion to, by kind: mean active |w|, mean active |average gradient|, or active count."""
    if kind == "nonzeros" or not mask.any():
        return float(mask.sum())
    values = weight if kind == "magnitude" else average
    assert values is not None, "collected for the update"
    return float(scores.magnitude(values)[mask].double().mean())


def shares_of(importances: Mapping[str, float]) -> dict[str, Fraction]:
    """The importances as fractions of their sum; all equal if all of them are 0."""
    finite = {name: Fraction(value) if math.isfinite(value) else Fraction(0) for name, value in importances.items()}
    total = sum(finite.values())
    return {name: value / total if total else Fraction(1, len(importances)) for name, value in finite.items()}


def drop_fraction(fraction: float, density: float, share: Fraction, layers: int) -> float:
    """The drop fraction of a layer: a layer that is nearly full and will receive more than the average drops less."""
    return min(1 - density, fraction) if density > 0.8 and share > Fraction(1, layers) else fraction


def apportion(total: int, shares: Mapping[str, Fraction], capacity: Mapping[str, int]) -> dict[str, int]:
    """``total`` weights by share, at most ``capacity`` to a layer, and exactly ``total`` in all.

    What does not fit goes to the layers that have capacity left, to each the same, round by round. Only what comes of that
    is rounded: by largest remainder, the earlier layer first where remainders are equal. No layer exceeds its capacity by it,
    since that is a whole number.
    """
    assert sum(capacity.values()) >= total, "what was dropped fits where it was"
    exact = {name: min(share * total, Fraction(capacity[name])) for name, share in shares.items()}
    while left := total - sum(exact.values(), Fraction(0)):
        with_room = [name for name in shares if exact[name] < capacity[name]]
        for name in with_room:
            exact[name] = min(exact[name] + left / len(with_room), Fraction(capacity[name]))
    return _largest_remainder(total, exact)


def _largest_remainder(total: int, exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Numbers that add up to ``total``, made whole."""
    whole = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])  # stable
    for name in by_remainder[: total - sum(whole.values())]:
        whole[name] += 1
    return whole


def capacities(units: Mapping[str, int], kept: Mapping[str, int], total: int) -> dict[str, int]:
    """How many weights each layer may grow: 99 % of its inactive ones, or all where that is too few for ``total``."""
    empty = {name: units[name] - kept[name] for name in units}
    most = {name: count * 99 // 100 for name, count in empty.items()}
    return most if sum(most.values()) >= total else empty
