"""Data sets that fit on the device: one uint8 tensor a split, shuffled, augmented and normalised there in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_sparse.config.data import DataConfig
from dist_sparse.data.augment import CropFlip, Draw
from dist_sparse.data.batch import Batch, Data, DataInfo, Loading, Normalise
from dist_sparse.data.limit import spread
from dist_sparse.data.order import BatchPlan, validation_share
from dist_sparse.data.small_set import SmallSet, Split, read_small
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator


@dataclass(frozen=True)
class SmallTrainLoader:
    """Augmented training batches. Crops and flips are drawn for the whole global batch, so ranks do not change them."""

    split: Split
    plan: BatchPlan
    normalise: Normalise
    augment: CropFlip | None

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[Batch]:
        device = self.split.images.device
        for step, positions in self.plan.steps(epoch, start_step, among):
            draw = None
            if self.augment is not None:
                draw = self.augment.draw(len(positions), generator("augment", self.plan.loading.seed, epoch, step))
            for share in self.plan.shares:
                indices = positions[share].to(device, non_blocking=True)
                images = self.split.images[indices].to(torch.float32)
                if self.augment is not None and draw is not None:
                    images = self.augment(images, Draw(*(part[share] for part in draw)))
                yield Batch(self.normalise(images), self.split.labels[indices], indices)


@dataclass(frozen=True)
class SmallValLoader:
    """This rank's share of the held-out samples, as they are."""

    split: Split
    share: range
    batch_size: int
    normalise: Normalise

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.share), self.batch_size):
            part = self.share[start : start + self.batch_size]
            indices = torch.arange(part.start, part.stop, part.step, device=self.split.images.device)
            yield Batch(self.normalise(self.split.images[indices]), self.split.labels[indices], indices)


def build_small(config: DataConfig, small_set: SmallSet, loading: Loading) -> Data:
    """Read a small set onto the device; errors as in :func:`dist_sparse.data.build_data`."""
    train, val = (_on_device(split, config, loading.device) for split in read_small(config, small_set))
    plan = BatchPlan(config.name, len(train.labels), loading)
    normalise = Normalise(small_set.mean, small_set.std, loading.device)
    share = validation_share(len(val.labels), loading)
    _, channels, side, _ = train.images.shape
    return Data(
        train=SmallTrainLoader(train, plan, normalise, _augmentation(config, small_set, side)),
        val=SmallValLoader(val, share, loading.eval_batch_size, normalise),
        info=DataInfo(config.name, small_set.classes, channels, side, len(train.labels), len(val.labels)),
    )


def _augmentation(config: DataConfig, small_set: SmallSet, side: int) -> CropFlip | None:
    if not config.augment:
        return None
    padding = small_set.crop_padding if config.crop_padding is None else config.crop_padding
    flip = small_set.flip if config.flip is None else config.flip
    if padding >= side:
        raise UserError(f"data.crop_padding={padding} should be less than the {side} pixels of {config.name}'s images")
    return CropFlip(padding, config.padding_mode or "zeros", flip)


def _on_device(split: Split, config: DataConfig, device: torch.device) -> Split:
    """The split with its images zero-padded to ``data.image_size``; an odd pixel goes to the right and the bottom."""
    chosen = spread(len(split.labels), config.limit)
    images, side = split.images[chosen], split.images.shape[-1]
    extra = (config.image_size or side) - side
    if extra < 0:
        raise UserError(
            f"data.image_size={config.image_size} is less than the {side} pixels of {config.name}; small sets only grow"
        )
    images = F.pad(images, (extra // 2, extra - extra // 2) * 2)
    return Split(images.to(device), split.labels[chosen].to(device))
