"""Fair timing on a busy machine: candidates take turns, and only neighbours in time are compared."""

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """One candidate over all rounds."""

    median: float
    """Seconds."""
    ratio: float
    """Median over the rounds of this candidate's time by the first candidate's time in the same round."""
    low: float
    """First quartile of those ratios."""
    high: float
    """Third quartile."""


def interleaved(
    candidates: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    prepare: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time every candidate once a round, after one round of warm-up; each round starts with another one.

    ``prepare`` is called with the candidate's name before each of its calls, off the clock.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            prepare(name)
            gc.collect()
            start = clock()
            candidates[name]()
            elapsed = clock() - start
            if turn > 0:
                seconds[name].append(elapsed)
    return {name: _summary(seconds[name], seconds[names[0]]) for name in names}


def _summary(seconds: list[float], first: list[float]) -> Timing:
    ratios = [mine / base for mine, base in zip(seconds, first, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Timing(median=statistics.median(seconds), ratio=ratio, low=low, high=high)


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
    """One thread, so that nothing waits for a thread whose core is busy, and on the CPU one core, for the caches' sake."""
    torch.set_num_threads(1)
    if device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def table(timings: Mapping[str, Timing], title: str) -> str:
    """A markdown table; ratios are against the first row."""
    rows = [f"| {title} | ms | ratio | middle half of the ratios |", "| --- | ---: | ---: | ---: |"]
    rows += [f"| {name} | {1e3 * t.median:.1f} | {t.ratio:.3f} | {t.low:.3f} to {t.high:.3f} |" for name, t in timings.items()]
    return "\n".join(rows)


def setting(device: torch.device) -> str:
    """Machine, version, threads and command, for the line below a table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    command = " ".join([f"python -m {_module_name()}", *sys.argv[1:]])
    return f"{name}; torch {torch.__version__}; {torch.get_num_threads()} thread; `{command}`"


def _module_name() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else Path(sys.argv[0]).stem


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
