"""What is known of a small data set, and how its files are read, or fetched where that is asked for."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from torch import Tensor

from dist_sparse.config.data import DataConfig
from dist_sparse.errors import UserError, one_line
from dist_sparse.inputs import expand


class Split(NamedTuple):
    """One split of a small set."""

    images: Tensor
    """[N, C, H, W] uint8."""
    labels: Tensor
    """[N] int64."""


class MissingFilesError(Exception):
    """A reader found no files, or not all of them."""


@dataclass(frozen=True, kw_only=True)
class SmallSet:
    """A data set that fits on the device. Defaults of the augmentation count where the config leaves them open."""

    classes: int
    mean: tuple[float, ...]
    """Per channel over the training split, of pixels scaled to 0-1."""
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    read: Callable[[Path], tuple[Split, Split]]
    """Training and held-out split from the folder ``data.root``; raises MissingFilesError."""
    layout: str = ""
    """Files that ``read`` looks for, relative to the folder."""
    download: Callable[[Path], object] | None = None
    """Fetches them; raises OSError or RuntimeError."""
    class_names: Callable[[Path], Sequence[str]] = lambda _root: ()
    """By class number, once the files are there."""
    hint: str = ""
    """Another way to get them."""
    side: int
    """The side of the images in pixels."""
    train_size: int
    val_size: int


def read_small(config: DataConfig, small_set: SmallSet) -> tuple[Split, Split]:
    """Training and held-out split, fetched first if they are missing and ``data.download`` is set.

    Raises UserError where the files are missing, or cannot be fetched. Of several ranks that share the folder one fetches.
    """
    root = expand(config.root)
    with _alone(root, config, small_set):
        try:
            return _checked(small_set.read(root), config, small_set)
        except MissingFilesError:
            if not config.download or small_set.download is None:
                raise UserError(
                    f"{config.name} is missing or damaged: expected {one_line(root)}/{small_set.layout}; "
                    f"--data.download=true fetches it{small_set.hint}"
                ) from None
        try:
            small_set.download(root)
            return _checked(small_set.read(root), config, small_set)
        except (OSError, RuntimeError, MissingFilesError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{config.name} could not be fetched ({reason}); "
                f"put the files at {one_line(root)}/{small_set.layout}{small_set.hint}"
            ) from error


def _checked(splits: tuple[Split, Split], config: DataConfig, small_set: SmallSet) -> tuple[Split, Split]:
    """Refuse files that are whole but do not fit together."""
    what = f"{config.name} in {one_line(config.root)}"
    for images, labels in splits:
        if images.ndim != 4 or len(images) != len(labels) or not len(labels):
            shape = "x".join(map(str, images.shape))
            raise UserError(f"{what} is damaged: {shape} values of images and {len(labels)} labels")
        if labels.min() < 0 or labels.max() >= small_set.classes:
            raise UserError(f"{what} is damaged: labels are not all below {small_set.classes}")
    return splits


def _alone(root: Path, config: DataConfig, small_set: SmallSet) -> AbstractContextManager[object]:
    """Keeps other ranks from reading files that are still being fetched; where nothing can be fetched there is no need."""
    if not config.download or small_set.download is None:
        return nullcontext()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError:
        return nullcontext()  # the download will say why
    return FileLock(root / f".{config.name}.lock") if os.access(root, os.W_OK) else nullcontext()
