"""Means over seeds, and differences within seeds with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, sqrt
from statistics import mean, stdev


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean of ``n`` values, and how far it may be from the truth."""

    mean: float
    standard_error: float
    """NaN with a single value."""
    n: int

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % confidence interval by Student's t; NaN with a single value."""
        if self.n < 2:
            return nan

        from scipy.stats import t

        return float(t.ppf(0.975, self.n - 1)) * self.standard_error

    def __str__(self) -> str:
        """With its sign, and the interval if there is one."""
        return f"{self.mean:+.2f} ± {self.half_width:.2f}" if self.n > 1 else f"{self.mean:+.2f}"

    @property
    def differs_from_zero(self) -> bool:
        """Zero is outside the 95 % interval."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of values, with its standard error."""
    count = len(values)
    return Estimate(mean=mean(values), standard_error=stdev(values) / sqrt(count) if count > 1 else nan, n=count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """The mean difference within the seeds that both have; None if they share none."""
    shared = sorted(ours.keys() & theirs.keys())
    return estimate([ours[seed] - theirs[seed] for seed in shared]) if shared else None
