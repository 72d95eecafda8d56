"""Running means of a training run, kept on the device so that no step waits for them."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from dist_sparse.distributed import Ranks, gather, max_over_ranks, sum_over_ranks


class Meter:
    """Mean loss and throughput since the last reading, and how many losses in a row were not finite."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._loss = torch.zeros(2, dtype=torch.float64, device=ranks.device)  # sum, count
        self._bad = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self._of_epoch = self._loss.clone()
        """What the epoch's losses are more than ``_loss``."""
        self._loss_before = self._loss.clone()
        """At the end of the last step."""
        self._undone = False
        self._images, self._steps = 0, 0
        self._since = time.perf_counter()

    def add(self, loss: Tensor, images: int) -> None:
        """Count one micro-batch of ``images`` samples on this rank."""
        self._loss += torch.stack([loss.double(), self._loss.new_ones(())])
        self._bad = torch.where(loss.isfinite(), 0.0, self._bad + 1)
        self._images += images

    def end_step(self, *, undone: bool) -> None:
        """After the last micro-batch of a step. One that was ``undone`` leaves no loss in the mean that is not finite."""
        self._undone = undone
        self._steps += 1
        if undone:
            self._loss = torch.where(self._loss[0].isfinite(), self._loss, self._loss_before)
        self._loss_before = self._loss.clone()

    def bad_losses(self) -> int:
        """The longest present row, over the ranks, of micro-batches whose loss is not finite. Collective."""
        return int(max_over_ranks(self._bad.clone()))

    def diverging(self) -> bool:
        """The last loss is not finite, and its step has moved weights. Collective."""
        return self.bad_losses() > 0 and not self._undone

    def read(self) -> dict[str, float]:
        """Loss, images a second over all ranks, and seconds a step, since the last reading. Collective."""
        total, count = sum_over_ranks(self._loss.clone()).tolist()
        seconds = time.perf_counter() - self._since
        speed = self._images * self._ranks.world_size / seconds
        self._of_epoch += self._loss
        self._loss.zero_()
        self._loss_before.zero_()
        per_step = seconds / max(self._steps, 1)
        self._images, self._steps, self._since = 0, 0, time.perf_counter()
        return {
            "train/loss": total / count if count else math.nan,
            "time/images_per_second": speed,
            "time/seconds_per_step": per_step,
        }

    def read_epoch(self) -> float:
        """Mean loss since the last reading of an epoch; nan if there were no steps. Collective."""
        total, count = sum_over_ranks(self._of_epoch + self._loss).tolist()
        self._begin_epoch()
        return total / count if count else math.nan

    def _begin_epoch(self) -> None:
        self._of_epoch = -torch.where(self._loss.isfinite().all(), self._loss, 0.0)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A context whose time does not count (validation, saving)."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last readings, one row a rank. Collective."""
        return {"loss": gather(self._loss).tolist(), "of_epoch": gather(self._of_epoch).tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the sums; if the number of ranks has changed, rank 0 takes their mean for each present rank."""
        self._take_over(self._loss, state["loss"])
        self._loss_before = self._loss.clone()
        if "of_epoch" in state:
            self._take_over(self._of_epoch, state["of_epoch"])
        else:  # a checkpoint of an earlier version: the epoch's mean is that of the steps to come
            self._begin_epoch()

    def _take_over(self, sums: Tensor, saved: list[list[float]]) -> None:
        rows = torch.tensor(saved, dtype=torch.float64)
        if len(rows) == self._ranks.world_size:
            sums.copy_(rows[self._ranks.rank])
        elif self._ranks.is_first:
            sums.copy_(rows.mean(0) * self._ranks.world_size)


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on a CUDA device, resident of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
