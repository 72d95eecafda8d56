"""Latencies: candidates take turns, so that what else the machine does falls on all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import TypeVar

Key = TypeVar("Key")
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds."""

    lower: float
    median: float
    upper: float
    """The quartiles."""

    def __str__(self) -> str:
        return f"{1e3 * self.median:.2f} ms ({1e3 * self.lower:.2f} to {1e3 * self.upper:.2f})"


def latencies(candidates: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, Latency]:
    """The wall-clock time of each candidate over rounds (two or more), after two of warm-up; each begins with another one."""
    names, seconds = list(candidates), {name: [] for name in candidates}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(-_WARM_UP, rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                candidates[name]()
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return {name: _latency(each) for name, each in seconds.items()}


def _latency(seconds: list[float]) -> Latency:
    lower, median, upper = quantiles(seconds, n=4, method="inclusive")
    return Latency(lower=lower, median=median, upper=upper)
