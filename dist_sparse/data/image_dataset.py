"""The worker's side of an image folder: keys (epoch, position) come in, uint8 images go out.

A sample's augmentation is seeded by its key, so the number of workers and ranks and a resume change nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from dist_sparse.data.image_files import BadImage, ImageFiles, open_image
from dist_sparse.seeding import derive_seed

Key = tuple[int, int]
"""Epoch and position."""


class Sample(NamedTuple):
    """What a worker makes of one key: ``image`` is uint8 [3, H, W], or None where no file could be decoded."""

    image: Tensor | None
    label: int
    index: int
    bad: list[BadImage]


class Pixels(NamedTuple):
    """Samples of a batch as they leave a worker: uint8 [B, 3, H, W], without those that could not be decoded."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[BadImage]


class ImageDataset(Dataset[Sample]):
    """Decodes and transforms one file per key; with ``substitute`` a corrupt file is replaced by the next good one."""

    def __init__(self, files: ImageFiles, transform: v2.Transform, seed: int, substitute: bool) -> None:
        self._files, self._transform, self._seed, self._substitute = files, transform, seed, substitute

    def __getitem__(self, key: Key) -> Sample:
        epoch, position = key
        bad: list[BadImage] = []
        for offset in range(len(self._files) if self._substitute else 1):
            index = (position + offset) % len(self._files)
            image = open_image(self._files.path(index))
            if not isinstance(image, BadImage):
                return Sample(self._augmented(image, epoch, position), int(self._files.labels[index]), index, bad)
            bad.append(image)
        return Sample(None, -1, -1, bad)

    def _augmented(self, image, epoch: int, position: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the process's generator: lend it, give it back
            torch.default_generator.manual_seed(derive_seed("augment", self._seed, epoch, position))
            return self._transform(image)


def collate(samples: list[Sample]) -> Pixels:
    """One batch of the samples that have an image."""
    good = [sample for sample in samples if sample.image is not None]
    images = [sample.image for sample in good if sample.image is not None]
    return Pixels(
        images=torch.stack(images) if images else torch.empty(0, dtype=torch.uint8),
        labels=torch.tensor([sample.label for sample in good], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in good], dtype=torch.int64),
        bad=[bad for sample in samples for bad in sample.bad],
    )
