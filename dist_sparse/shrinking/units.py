"""Units that can only be removed together, as sets that are joined while the graph is read (union-find)."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

Ids = np.ndarray
"""Numbers of units, one for each position of a dimension."""


class Axis(NamedTuple):
    """The one dimension of a tensor whose positions are units. All others stay as they are."""

    dim: int
    ids: Ids


class Reason(NamedTuple):
    """Why a unit stays: in general, and the layer, operation or parameter that it is about."""

    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind} {self.where}"


class Units:
    """Numbers units, joins those that go together, and knows which have to stay."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._pins: dict[int, Reason] = {}

    def fresh(self, count: int) -> Ids:
        """Numbers of units that nothing is known of yet."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, unit: int) -> int:
        """The unit that stands for all that are removed with this one."""
        parents = self._parents
        while parents[unit] != unit:
            parents[unit] = parents[parents[unit]]
            unit = parents[unit]
        return unit

    def roots(self, ids: Ids) -> Ids:
        return np.array([self.root(unit) for unit in ids.ravel().tolist()], dtype=np.int64).reshape(ids.shape)

    def join(self, first: Ids, second: Ids) -> None:
        """Position by position, the two are removed together."""
        assert first.shape == second.shape
        for one, other in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            one, other = self.root(one), self.root(other)
            if one != other:
                self._parents[max(one, other)] = min(one, other)
                if (reason := self._pins.pop(max(one, other), None)) is not None:
                    self._pins.setdefault(min(one, other), reason)

    def pin(self, ids: Iterable[int], reason: Reason) -> None:
        """They have to stay."""
        for unit in ids:
            self._pins.setdefault(self.root(int(unit)), reason)

    def pinned(self) -> dict[int, Reason]:
        """Roots that have to stay, and why."""
        return dict(self._pins)
