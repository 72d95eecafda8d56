"""Which samples a step takes, and which of them are this rank's: a pure function of seed, epoch and step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dist_sparse.data.batch import Loading
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator


class Key(NamedTuple):
    """One view of one sample, which a batch asks for."""

    epoch: int
    position: int
    repeat: int = 0
    """Which of the epoch's views of the sample it is."""

    def purpose(self, draw: str, seed: int) -> tuple[str | int, ...]:
        """What a random draw for this view is seeded by (:mod:`dist_sparse.seeding`)."""
        purpose = (draw, seed, self.epoch, self.position)
        return (*purpose, self.repeat) if self.repeat else purpose


class Step(NamedTuple):
    """The views of one global batch, on the CPU."""

    number: int
    """The step within the epoch."""
    positions: Tensor
    """[batch_size] int64."""
    repeats: Tensor
    """[batch_size] int64: 0, and more where an epoch shows a sample several times."""

    def keys(self, epoch: int, rows: slice) -> list[Key]:
        """The views of some of the rows."""
        pairs = zip(self.positions[rows].tolist(), self.repeats[rows].tolist(), strict=True)
        return [Key(epoch, position, repeat) for position, repeat in pairs]


@dataclass(frozen=True)
class BatchPlan:
    """How global batches are drawn from ``size`` samples and shared out between ranks and micro-batches.

    Step k of an epoch takes entries [k*B, (k+1)*B) of the epoch's permutation; its micro-batches are consecutive parts of
    that, and within a micro-batch so are the ranks'. What a step sees therefore does not depend on the number of ranks.

    With ``repeats`` each entry of the permutation comes that often in a row, and an epoch still has as many steps, so it ends
    within the permutation: the sampler of DeiT (repeated augmentation, arXiv:1901.09335). Within a batch all first views come
    before the second ones, so that ranks, which take consecutive parts, see different samples as far as that goes.
    """

    name: str
    size: int
    loading: Loading
    repeats: int = 1

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

    def steps(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[Step]:
        """The steps of an epoch from ``start_step`` on.

        ``among``: int64 positions on the CPU to draw from instead of all; the epoch is that much shorter.
        """
        batch, size = self.loading.batch_size, self.size if among is None else len(among)
        assert 0 <= start_step <= size // batch
        order = torch.randperm(size, generator=generator("order", self.loading.seed, epoch))
        order = order if among is None else among[order]
        for step in range(start_step, size // batch):
            views = torch.arange(step * batch, (step + 1) * batch)
            views = views[(views % self.repeats).argsort(stable=True)]
            yield Step(step, order[views // self.repeats], views % self.repeats)


def validation_share(size: int, loading: Loading) -> range:
    """This rank's positions of the held-out split: every sample is exactly one rank's, and none is padded."""
    return range(loading.rank, size, loading.world_size)
