"""The loaders of images, on top of a backend that turns keys into pixels."""

import logging
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dist_sparse.data.batch import Batch, Loading, Normalise
from dist_sparse.data.decoding import BadImage
from dist_sparse.data.erasing import Erasing
from dist_sparse.data.order import BatchPlan, Key
from dist_sparse.errors import UserError

logger = logging.getLogger(__name__)


class Pixels(NamedTuple):
    """A batch as a backend gives it: uint8 [B, 3, H, W], without the images that could not be decoded."""

    images: Tensor
    """Its memory may be the backend's again as soon as the next batch is asked for."""
    labels: Tensor
    indices: Tensor
    keys: list[Key]
    """What was asked for; an image in place of a bad one has another index than its key."""
    bad: list[BadImage]


class Backend(Protocol):
    """Decodes the images of one split."""

    def stream(self, batches: Iterable[list[Key]]) -> Iterator[Pixels]:
        """The images of each batch of keys, in order. The next call abandons the batches of the one before."""
        ...

    def close(self) -> None:
        """End its processes and threads; whoever closes it reads no more."""
        ...


class BatchFinisher:
    """Reports bad images, and brings pixels to the device as a normalised batch.

    Batches are float32 in mixed precision too: mixup works on them, and the cast in the first convolution costs one pass over
    the images, little beside that convolution's own output.
    """

    def __init__(self, *, stop: bool, device: torch.device, normalise: Normalise, erase: Erasing | None = None) -> None:
        self._stop, self._device, self._normalise, self._erase = stop, device, normalise, erase
        self._reported: set[str] = set()

    def __call__(self, pixels: Pixels) -> Batch:
        for name, reason in pixels.bad:
            if self._stop:
                raise UserError(f"{name} cannot be decoded ({reason}); mend or remove it, or set data.bad_images=skip")
            if name not in self._reported:
                self._reported.add(name)
                logger.warning("%s cannot be decoded (%s); going on without it", name, reason)
        images, labels, indices = (part.to(self._device, non_blocking=True) for part in pixels[:3])
        if len(labels):
            images = self._normalise(images)
            if self._erase is not None:
                self._erase(images, pixels.keys)
        return Batch(images, labels, indices)


class ImageTrainLoader:
    """Training batches. The backend lives on from epoch to epoch, so only one epoch can be under way at a time."""

    def __init__(self, backend: Backend, plan: BatchPlan, finish: BatchFinisher) -> None:
        self._backend, self._plan, self._finish = backend, plan, finish

    @property
    def steps_per_epoch(self) -> int:
        return self._plan.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[Batch]:
        for pixels in self._backend.stream(self._keys(epoch, start_step, among)):
            batch = self._finish(pixels)
            if not len(batch.labels):
                raise UserError("no training image can be decoded")
            yield batch

    def _keys(self, epoch: int, start_step: int, among: Tensor | None) -> Iterator[list[Key]]:
        """The keys of this rank's micro-batches, one list each."""
        for step in self._plan.steps(epoch, start_step, among):
            for share in self._plan.shares:
                yield step.keys(epoch, share)


class ImageValLoader:
    """This rank's share of the held-out images; batches can be smaller where corrupt ones are left out."""

    def __init__(self, backend: Backend, share: range, loading: Loading, finish: BatchFinisher) -> None:
        size = loading.eval_batch_size
        self._backend, self._finish = backend, finish
        self._keys = [[Key(0, position) for position in share[start : start + size]] for start in range(0, len(share), size)]

    def __iter__(self) -> Iterator[Batch]:
        for batch in map(self._finish, self._backend.stream(self._keys)):
            if len(batch.labels):
                yield batch
