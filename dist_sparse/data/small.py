"""Data sets that fit on the device: one uint8 tensor a split, shuffled, augmented and normalised there in batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_sparse.config.data import DataConfig
from dist_sparse.data.augment import CropFlip, Draw
from dist_sparse.data.batch import Batch, Data, DataInfo, Loading, Normalise
from dist_sparse.data.erasing import Erasing, erasing_of
from dist_sparse.data.identity import Samples, samples_of
from dist_sparse.data.limit import spread
from dist_sparse.data.normalisation import chosen
from dist_sparse.data.order import BatchPlan, validation_share
from dist_sparse.data.small_set import SmallSet, Split, read_small
from dist_sparse.inputs import expand
from dist_sparse.seeding import generator


@dataclass(frozen=True)
class SmallTrainLoader:
    """Augmented training batches. Crops and flips are drawn for the whole global batch, so ranks do not change them."""

    split: Split
    plan: BatchPlan
    normalise: Normalise
    augment: CropFlip | None
    erase: Erasing | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self.plan.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[Batch]:
        device = self.split.images.device
        for step in self.plan.steps(epoch, start_step, among):
            draw = None
            if self.augment is not None:
                draw = self.augment.draw(len(step.positions), generator("augment", self.plan.loading.seed, epoch, step.number))
            for share in self.plan.shares:
                indices = step.positions[share].to(device, non_blocking=True)
                images = self.split.images[indices].to(torch.float32)
                if self.augment is not None and draw is not None:
                    images = self.augment(images, Draw(*(part[share] for part in draw)))
                images = self.normalise(images)
                if self.erase is not None:
                    self.erase(images, step.keys(epoch, share))
                yield Batch(images, self.split.labels[indices], indices)


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
    splits = [_limited(split, config.limit) for split in read_small(config, small_set)]
    train, val = (_on_device(split, config, loading.device) for split in splits)
    plan = BatchPlan(config.name, len(train.labels), loading, config.repeated_augment)
    normalise = Normalise(*chosen(config), loading.device)
    share = validation_share(len(val.labels), loading)
    _, channels, side, _ = train.images.shape
    return Data(
        train=SmallTrainLoader(train, plan, normalise, _augmentation(config, small_set), erasing_of(config, loading.seed)),
        val=SmallValLoader(val, share, loading.eval_batch_size, normalise),
        info=DataInfo(
            name=config.name,
            classes=small_set.classes,
            channels=channels,
            image_size=side,
            train_size=len(train.labels),
            val_size=len(val.labels),
            class_names=tuple(small_set.class_names(expand(config.root))),
            train_samples=_samples(splits[0], small_set.classes),
            val_samples=_samples(splits[1], small_set.classes),
        ),
    )


def _augmentation(config: DataConfig, small_set: SmallSet) -> CropFlip | None:
    if not config.augment:
        return None
    padding = small_set.crop_padding if config.crop_padding is None else config.crop_padding
    flip = small_set.flip if config.flip is None else config.flip
    return CropFlip(padding, config.padding_mode or "zeros", flip, config.vertical_flip)


def _limited(split: Split, limit: int | None) -> Split:
    chosen = spread(len(split.labels), limit)
    return Split(split.images[chosen], split.labels[chosen])


def _samples(split: Split, classes: int) -> Samples:
    """Told apart by their pixels, as they are in the files."""
    return samples_of(split.labels.numpy(), split.images.contiguous().numpy(), classes)


def _on_device(split: Split, config: DataConfig, device: torch.device) -> Split:
    """The split with its images zero-padded to ``data.image_size``; an odd pixel goes to the right and the bottom."""
    images, side = split.images, split.images.shape[-1]
    extra = (config.image_size or side) - side
    images = F.pad(images, (extra // 2, extra - extra // 2) * 2)
    return Split(images.to(device), split.labels.to(device))
