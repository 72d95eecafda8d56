"""How long networks take: medians and quartiles, the candidates in turn, so that all see the same machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import quantiles

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Latency:
    """Seconds of a forward pass."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{1e3 * self.median:.2f} ms ({1e3 * self.low:.2f} to {1e3 * self.high:.2f})"


def measure(networks: Mapping[str, nn.Module], images: Tensor, *, rounds: int = 9) -> dict[str, Latency]:
    """Time each network's forward pass once a round (two rounds or more), after one round of warm-up.

    With one thread on the CPU it is the process's own time, which leaves out what else its core does.
    """
    clock = time.process_time if images.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, network in networks.items():
                start = clock()
                network(images)
                if images.device.type == "cuda":
                    torch.cuda.synchronize(images.device)
                if turn:
                    seconds[name].append(clock() - start)
    return {name: Latency(*quantiles(each, n=4, method="inclusive")) for name, each in seconds.items()}
