"""How far and when the masks move, as functions of the optimizer step (1 is the first)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

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
    """A mask update every ``interval`` steps, from step ``start`` on and before ``end``."""

    interval: int
    end: int
    drop: DropSchedule
    start: int = 0

    def due(self, previous: int, step: int) -> float | None:
        """The drop fraction if an update falls in (previous, step], else None; see :meth:`due_step`."""
        regular = self.due_step(previous, step)
        return None if regular is None else self.drop(regular)

    def due_step(self, previous: int, step: int) -> int | None:
        """The latest regular update in (previous, step], or None.

        ``previous`` is the last step that could have updated, usually ``step - 1``. After steps whose gradients overflowed
        it is earlier, so that an update which fell on one of them is made up for and not lost.
        """
        latest = min(step, self.end - 1) // self.interval * self.interval
        return latest if max(previous, self.start - 1) < latest else None

    def number(self, regular: int) -> int:
        """Which of the updates a regular one is; the one at step 0 is number 0."""
        return regular // self.interval

    def regular(self, last: int) -> Sequence[int]:
        """The steps of all regular updates up to step ``last``."""
        earliest = max(self.start, 1)
        return range(earliest + -earliest % self.interval, min(self.end, last + 1), self.interval)

    def until_next(self, step: int) -> int | None:
        """Steps from ``step`` to the next regular update (0 on an update), or None if there is none any more."""
        earliest = max(step, self.start)
        following = earliest + -earliest % self.interval
        return following - step if following < self.end else None


@dataclass(frozen=True, kw_only=True)
class ListedSteps(UpdateSchedule):
    """Updates at listed steps, in their order."""

    steps: tuple[int, ...]

    @classmethod
    def of(cls, steps: Sequence[int]) -> "ListedSteps":
        return cls(interval=1, start=steps[0], end=steps[-1] + 1, drop=Constant(start=0.0), steps=tuple(steps))

    def number(self, regular: int) -> int:
        """Which of the listed steps it is; the first is number 0."""
        return self.steps.index(regular)

    def due_step(self, previous: int, step: int) -> int | None:
        return next((each for each in reversed(self.steps) if previous < each <= step), None)

    def regular(self, last: int) -> Sequence[int]:
        return [each for each in self.steps if each <= last]

    def until_next(self, step: int) -> int | None:
        return next((each - step for each in self.steps if each >= step), None)


@dataclass(frozen=True, kw_only=True)
class CubicRamp:
    """Density from ``initial`` at update ``first`` to ``final`` at update ``last``, as Zhu and Gupta (2017) prune.

    The density is a fraction of whole numbers, read from the decimals that the user wrote, so that counts made from it are
    exact: 20 % of 10,000 are 2,000 and not 1,999.
    """

    initial: float
    final: float
    first: int
    last: int

    def __call__(self, number: int) -> Fraction:
        """The density after update ``number`` (the first of all is 1)."""
        initial, final = Fraction(str(self.initial)), Fraction(str(self.final))
        left = Fraction(self.last - min(max(number, self.first), self.last), self.last - self.first)
        return final + (initial - final) * left**3

    def done(self, number: int) -> bool:
        """Update ``number`` has the final density, and so has each after it."""
        return self(number) == Fraction(str(self.final))


def share_of(density: Fraction, units: int) -> int:
    """``density * units`` rounded to the nearest, a half upwards."""
    return math.floor(density * units + Fraction(1, 2))


def drop_count(fraction: float, active: int, *, up: bool) -> int:
    """``fraction * active`` as a whole number: rounded up (ITOP, GraNet) or down (RigL), and not misled by binary fractions.

    0.29 * 100 is 28.999... in floating point; it counts as 29 either way.
    """
    exact = fraction * active
    slack = max(1e-9, 1e-15 * exact)
    return math.ceil(exact - slack) if up else math.floor(exact + slack)
