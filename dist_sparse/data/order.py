"""Which samples a step takes, and which of them are this rank's: a pure function of seed, epoch and step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_sparse.data.batch import Loading
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator


@dataclass(frozen=True)
class BatchPlan:
    """How global batches are drawn from ``size`` samples and shared out between ranks and micro-batches.

    Step k of an epoch takes entries [k*B, (k+1)*B) of the epoch's permutation; its micro-batches are consecutive parts of
    that, and within a micro-batch so are the ranks'. What a step sees therefore does not depend on the number of ranks.
    """

    name: str
    size: int
    loading: Loading

    def __post_init__(self) -> None:
        """Raises UserError where the batch cannot be shared out or the data set cannot fill it."""
        batch, ranks, accumulation = self.loading.batch_size, self.loading.world_size, self.loading.accumulation
        assert 0 <= self.loading.rank < ranks
        parts = ranks * accumulation
        if batch % parts:
            below = batch // parts * parts
            fitting = f"{below} or {below + parts}" if below else f"{parts}"
            raise UserError(
                f"train.batch_size={batch} does not divide by {ranks} ranks x {accumulation} accumulation steps; "
                f"{fitting} would"
            )
        if self.size < batch:
            largest = self.size // parts * parts
            raise UserError(
                f"train.batch_size={batch} is more than the {self.size} training samples of {self.name}; "
                f"{largest or 'fewer ranks or accumulation steps'} would do"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.loading.batch_size

    @property
    def share_size(self) -> int:
        """Samples of a micro-batch that are this rank's."""
        return self.loading.batch_size // self.loading.accumulation // self.loading.world_size

    @property
    def shares(self) -> list[slice]:
        """The rows of a global batch that are this rank's, one slice per micro-batch."""
        micro = self.loading.batch_size // self.loading.accumulation
        share = self.share_size
        starts = (a * micro + self.loading.rank * share for a in range(self.loading.accumulation))
        return [slice(start, start + share) for start in starts]

    def steps(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """Pairs of step and the [batch_size] int64 positions of its global batch, on the CPU.

        ``among``: int64 positions on the CPU to draw from instead of all; the epoch is that much shorter.
        """
        batch, size = self.loading.batch_size, self.size if among is None else len(among)
        assert 0 <= start_step <= size // batch
        order = torch.randperm(size, generator=generator("order", self.loading.seed, epoch))
        order = order if among is None else among[order]
        for step in range(start_step, size // batch):
            yield step, order[step * batch : (step + 1) * batch]


def validation_share(size: int, loading: Loading) -> range:
    """This rank's positions of the held-out split: every sample is exactly one rank's, and none is padded."""
    return range(loading.rank, size, loading.world_size)
