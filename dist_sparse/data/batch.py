"""What every data set gives to training: batches, two loaders and the facts that a model needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dist_sparse.data.identity import Samples


class Batch(NamedTuple):
    """Samples of one rank, on its device."""

    images: Tensor
    """[B, C, H, W] float32, normalised by the data set's mean and standard deviation."""
    labels: Tensor
    """[B] int64 class numbers."""
    indices: Tensor
    """[B] int64 positions in the data set's split, the same in every epoch and for any number of ranks."""


@dataclass(frozen=True)
class DataInfo:
    """Facts about a data set; ``image_size`` is the side in pixels of the images that a model gets to see in validation."""

    name: str
    classes: int
    channels: int
    image_size: int
    train_size: int
    val_size: int
    class_names: tuple[str, ...] = ()
    """By class number; empty where nobody has said them, as in shards of another program."""
    train_samples: Samples = Samples()
    val_samples: Samples = Samples()


class TrainLoader(Protocol):
    """Batches of the training split, in an order that depends only on seed and epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; a remainder smaller than one global batch is left out, another one each epoch."""
        ...

    def epoch(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[Batch]:
        """This rank's micro-batches of one epoch, ``accumulation`` per optimizer step, from ``start_step`` on.

        ``among``: int64 positions on the CPU that the epoch is made of; None for all.
        """
        ...


class ValLoader(Protocol):
    """Batches of the held-out split: over all ranks together every sample comes exactly once.

    Shares of the ranks can differ in length (and be empty), so a loop over them must not hold a collective call.
    """

    def __iter__(self) -> Iterator[Batch]: ...


class Closable(Protocol):
    """Holds processes or threads, which ``close`` ends."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Data:
    """A data set, ready for one rank."""

    train: TrainLoader
    val: ValLoader
    info: DataInfo
    train_sizes: frozenset[int] = frozenset()
    """Sides of the training images over the run; none: as in validation."""
    backends: tuple[Closable, ...] = ()

    @property
    def train_side(self) -> int:
        """The largest side of the training images over the run."""
        return max(self.train_sizes, default=self.info.image_size)

    def close(self) -> None:
        """End the processes and threads that read: whatever the end of a run is, Python's exit must not wait for them."""
        for backend in self.backends:
            backend.close()


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How one rank loads; the arguments of :func:`dist_sparse.data.build_data`."""

    batch_size: int
    """Samples per optimizer step, over all ranks and accumulation steps together."""
    accumulation: int
    eval_batch_size: int
    """Held-out samples per rank and batch."""
    rank: int
    world_size: int
    device: torch.device
    seed: int
    epochs: int = 1
    """The length of the run, which what grows over the run needs."""
    channels_last: bool = False
    """Give images in the NHWC memory format where that costs nothing."""


class Normalise:
    """Pixels 0-255 to float32 with mean 0 and standard deviation 1 per channel, on the device."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        spread = torch.tensor(std).view(-1, 1, 1)
        self._scale = (1 / (255 * spread)).to(device)
        self._shift = (-torch.tensor(mean).view(-1, 1, 1) / spread).to(device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """[..., C, H, W] of any dtype -> float32 of the same shape."""
        return torch.addcmul(self._shift, pixels.to(torch.float32), self._scale)
