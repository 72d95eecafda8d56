"""Folders of images in ImageNet's layout, loaded by worker processes (see :mod:`dist_sparse.data.image_dataset`).

Another backend would take the same :class:`ImageFiles` and :class:`BatchPlan`.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dist_sparse.config.data import DataConfig
from dist_sparse.data.batch import Batch, Data, DataInfo, Loading, Normalise
from dist_sparse.data.image_dataset import ImageDataset, Key, Pixels, collate
from dist_sparse.data.image_files import list_splits, some
from dist_sparse.data.order import BatchPlan, validation_share
from dist_sparse.errors import UserError
from dist_sparse.preemption import leave_signals_to_parent
from dist_sparse.seeding import generator

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_IMAGE_SIZE = 224

logger = logging.getLogger(__name__)


class BatchFinisher:
    """Reports bad images, and brings pixels to the device as a normalised batch."""

    def __init__(self, config: DataConfig, device: torch.device) -> None:
        self._stop = config.bad_images == "stop"
        self._device = device
        self._normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD, device)
        self._reported: set[Path] = set()

    def __call__(self, pixels: Pixels) -> Batch:
        for path, reason in pixels.bad:
            if self._stop:
                raise UserError(f"{path} cannot be decoded ({reason}); mend or remove it, or set data.bad_images=skip")
            if path not in self._reported:
                self._reported.add(path)
                logger.warning("%s cannot be decoded (%s); going on without it", path, reason)
        images, labels, indices = (part.to(self._device, non_blocking=True) for part in pixels[:3])
        return Batch(self._normalise(images) if len(labels) else images, labels, indices)


class EpochSampler:
    """Keys of this rank's micro-batches. The DataLoader asks for them in the main process, so ``place`` may move."""

    def __init__(self, plan: BatchPlan) -> None:
        self._plan = plan
        self.place: tuple[int, int] = (0, 0)
        """Epoch and first step of the next pass."""
        self.among: Tensor | None = None
        """Positions that the next pass draws from; None for all."""

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start_step = self.place
        for _, positions in self._plan.steps(epoch, start_step, self.among):
            for share in self._plan.shares:
                yield [(epoch, position) for position in positions[share].tolist()]


class FolderTrainLoader:
    """Training batches. The worker processes live on from epoch to epoch, so only one epoch can be under way at a time."""

    def __init__(self, dataset: ImageDataset, plan: BatchPlan, config: DataConfig) -> None:
        self._plan = plan
        self._sampler = EpochSampler(plan)
        self._loader = _worker_loader(dataset, self._sampler, config, plan.loading)
        self._finish = BatchFinisher(config, plan.loading.device)

    @property
    def steps_per_epoch(self) -> int:
        return self._plan.steps_per_epoch

    def epoch(self, epoch: int, start_step: int = 0, among: Tensor | None = None) -> Iterator[Batch]:
        self._sampler.place, self._sampler.among = (epoch, start_step), among
        for pixels in self._loader:
            batch = self._finish(pixels)
            if not len(batch.labels):
                raise UserError("no image of the training folder can be decoded")
            yield batch


class FolderValLoader:
    """This rank's share of the held-out images; batches can be smaller where corrupt ones are left out."""

    def __init__(self, dataset: ImageDataset, share: range, config: DataConfig, loading: Loading) -> None:
        size = loading.eval_batch_size
        keys = [[(0, position) for position in share[start : start + size]] for start in range(0, len(share), size)]
        self._loader = _worker_loader(dataset, keys, config, loading)
        self._finish = BatchFinisher(config, loading.device)

    def __iter__(self) -> Iterator[Batch]:
        for batch in map(self._finish, self._loader):
            if len(batch.labels):
                yield batch


def build_folder(config: DataConfig, loading: Loading) -> Data:
    """List the folder and make its loaders; errors as in :func:`dist_sparse.data.build_data`."""
    size = config.image_size or DEFAULT_IMAGE_SIZE
    for key in ("crop_padding", "padding_mode"):
        if getattr(config, key) is not None:
            raise UserError(f"data.{key} is for small data sets; image_folder crops by data.min_scale")
    if config.resize < size:
        raise UserError(f"data.resize={config.resize} should be at least data.image_size={size}")
    train_files, val_files = (some(files, config.limit) for files in list_splits(Path(config.root).expanduser()))
    resized = [v2.Resize(config.resize), v2.CenterCrop(size)]
    augmented = [
        v2.RandomResizedCrop(size, scale=(config.min_scale, 1)),
        v2.RandomHorizontalFlip(0.0 if config.flip is False else 0.5),
    ]
    to_train = v2.Compose([*(augmented if config.augment else resized), v2.PILToTensor()])
    to_val = v2.Compose([*resized, v2.PILToTensor()])
    plan = BatchPlan(config.name, len(train_files), loading)
    train_set = ImageDataset(train_files, to_train, loading.seed, substitute=config.bad_images == "skip")
    val_set = ImageDataset(val_files, to_val, loading.seed, substitute=False)
    share = validation_share(len(val_files), loading)
    return Data(
        train=FolderTrainLoader(train_set, plan, config),
        val=FolderValLoader(val_set, share, config, loading),
        info=DataInfo(config.name, len(train_files.classes), 3, size, len(train_files), len(val_files)),
    )


def _worker_loader(dataset: ImageDataset, batch_sampler, config: DataConfig, loading: Loading) -> DataLoader:
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        pin_memory=loading.device.type == "cuda",
        worker_init_fn=leave_signals_to_parent,
        generator=generator("workers", loading.seed),  # its own: the process's generator must not depend on how often we resume
    )
