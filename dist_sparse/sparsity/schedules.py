"""How far and when the masks move, as functions of the optimizer step (1 is the first)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

DropSchedule = Callable[[int], float]
"""From the step to the fraction of active units that an update drops."""


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from ``start`` at step 0 to ``floor`` at step ``end``.

    It is RigL's with floor 0, ITOP's and GraNet's with floor 0.005.
    """

    start: float
    floor: float
    end: int

    def __call__(self, step: int) -> float:
        progress = min(step / self.end, 1.0)
        return self.floor + (self.start - self.floor) / 2 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A straight line from ``start`` at step 0 to ``floor`` at step ``end``."""

    start: float
    floor: float
    end: int

    def __call__(self, step: int) -> float:
        return self.start + (self.floor - self.start) * min(step / self.end, 1.0)


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Always ``start``."""

    start: float

    def __call__(self, step: int) -> float:
        return self.start


@dataclass(frozen=True, kw_only=True)
class UpdateSchedule:
    """A mask update every ``interval`` steps, at steps before ``end``."""

    interval: int
    end: int
    drop: DropSchedule

    def due(self, previous: int, step: int) -> float | None:
        """The drop fraction if an update falls in (previous, step], else None.

        ``previous`` is the last step that could have updated, usually ``step - 1``. After steps whose gradients overflowed
        it is earlier, so that an update which fell on one of them is made up for and not lost.
        """
        latest = min(step, self.end - 1) // self.interval * self.interval
        return self.drop(latest) if previous < latest else None

    def until_next(self, step: int) -> int | None:
        """Steps from ``step`` to the next regular update (0 on an update), or None if there is none any more."""
        distance = -step % self.interval
        return distance if step + distance < self.end else None


def drop_count(fraction: float, active: int, *, up: bool) -> int:
    """``fraction * active`` as a whole number: rounded up (ITOP, GraNet) or down (RigL), and not misled by binary fractions.

    0.29 * 100 is 28.999... in floating point; it counts as 29 either way.
    """
    exact = fraction * active
    slack = max(1e-9, 1e-15 * exact)
    return math.ceil(exact - slack) if up else math.floor(exact + slack)
