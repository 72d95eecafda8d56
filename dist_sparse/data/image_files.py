"""Image files on disk: listing a folder of class folders, and decoding one file without letting a corrupt one through."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from dist_sparse.data.limit import spread
from dist_sparse.errors import UserError


@dataclass(frozen=True)
class ImageFiles:
    """The files of one split, sorted by class and name; a file's place in them is its position in the data set."""

    root: Path
    classes: tuple[str, ...]
    paths: np.ndarray
    """[N] bytes, relative to ``root``. One array, not N objects: workers would copy those page by page as they touch them."""
    labels: np.ndarray
    """[N] int64."""

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, position: int) -> Path:
        return self.root / os.fsdecode(self.paths[position])


class BadImage(NamedTuple):
    """A file that could not be decoded, and why, in one line."""

    path: Path
    reason: str


def list_splits(root: Path) -> tuple[ImageFiles, ImageFiles]:
    """Training and held-out files of ImageNet's layout: ``root/train/<class>/*.JPEG`` and ``root/val/<class>/*.JPEG``.

    Raises UserError for missing or empty folders and for class folders that the two splits do not share.
    """
    train, val = list_images(root, "train"), list_images(root, "val")
    for first, second in ((train, val), (val, train)):
        lacking = sorted(set(first.classes) - set(second.classes))
        if lacking:
            raise UserError(f"{second.root} lacks class folders that {first.root} has: {_some(lacking)}")
    return train, val


def some(files: ImageFiles, limit: int | None) -> ImageFiles:
    """So many of the files at most, spread over the classes; all without a limit."""
    chosen = spread(len(files), limit)
    return dataclasses.replace(files, paths=files.paths[chosen], labels=files.labels[chosen])


def list_images(root: Path, split: str) -> ImageFiles:
    """The images of one split; UserError where a folder is missing or a class has none."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    folder = root / split
    layout = f"expected {root}/{split}/<class>/*.JPEG"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; {layout} (data.root is the folder above train and val)")
    try:
        classes, numbers = find_classes(folder)
    except FileNotFoundError:
        raise UserError(f"{folder} is empty; {layout}") from None
    samples = make_dataset(folder, numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    empty = [classes[number] for number in np.setdiff1d(np.arange(len(classes)), labels)]
    if empty:
        raise UserError(f"{folder} has class folders without an image ({', '.join(IMG_EXTENSIONS)}): {_some(empty)}")
    paths = np.array([os.fsencode(os.path.relpath(path, folder)) for path, _ in samples])
    return ImageFiles(folder, tuple(classes), paths, labels)


def open_image(path: Path) -> Image.Image | BadImage:
    """Decode a file to RGB; what cannot be decoded comes back as a BadImage, so that it crosses from a worker in one piece."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError:
        return BadImage(path, "not an image in a known format")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return BadImage(path, " ".join(str(error).split()) or type(error).__name__)


def _some(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
