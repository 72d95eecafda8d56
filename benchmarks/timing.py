"""Fair timing on a busy machine: candidates take turns, and only neighbours in time are compared."""

import gc
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import torch


@dataclass(frozen=True)
class Timings:
    """Seconds of every candidate, one for each round, in the order of rounds."""

    seconds: Mapping[str, Sequence[float]]

    def ratios(self, name: str, against: str) -> list[float]:
        """One candidate's time over another's, in each round."""
        return [mine / base for mine, base in zip(self.seconds[name], self.seconds[against], strict=True)]

    def table(self, title: str, against: Sequence[str] = ()) -> str:
        """A markdown table of median milliseconds and median paired ratios to each of ``against`` (by default to the first).

        The quartiles of the ratios stand in brackets.
        """
        against = against or list(self.seconds)[:1]
        rows = [[title, "ms", *(f"/ {name}" for name in against)], ["---", "---:", *("---:" for _ in against)]]
        for name, seconds in self.seconds.items():
            rows.append([name, f"{1e3 * median(seconds):.1f}", *(_quartiles(self.ratios(name, base)) for base in against)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _quartiles(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    prepare: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time every candidate once a round (two rounds or more), after two rounds of warm-up; each round starts with another one.

    ``prepare`` runs before each call, off the clock.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            prepare()
            gc.collect()
            start = clock()
            candidates[name]()
            elapsed = clock() - start
            if turn >= 0:
                seconds[name].append(elapsed)
    return Timings(seconds)


def clock_for(device: torch.device) -> Callable[[], float]:
    """Seconds: of the synchronised wall clock on a GPU, of this process on the CPU.

    With one thread on a core of its own the two are the same; on a shared core the process's time leaves out the others' turns.
    """
    if device.type != "cuda":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def pin(device: torch.device) -> None:
    """One thread, so that nothing waits for a thread whose core is busy; and on the CPU one core, for its caches' sake."""
    torch.set_num_threads(1)
    if device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def setting(device: torch.device) -> str:
    """Machine, version, threads and command, for the line below a table."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    spec = sys.modules["__main__"].__spec__
    command = shlex.join(["python", "-m", spec.name if spec else Path(sys.argv[0]).stem, *sys.argv[1:]])
    return f"{machine}; torch {torch.__version__}; {torch.get_num_threads()} thread; `{command}`"


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
