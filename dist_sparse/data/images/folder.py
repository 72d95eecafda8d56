"""Class folders of images, as ImageNet comes."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_sparse.errors import UserError


@dataclass(frozen=True)
class FolderFiles:
    """The files of one split, sorted by class and name (see :class:`dist_sparse.data.images.files.ImageFiles`)."""

    root: Path
    classes: tuple[str, ...]
    paths: np.ndarray
    """[N] bytes, relative to ``root``. One array, not N objects: workers would copy those page by page as they touch them."""
    labels: np.ndarray
    """[N] int64."""

    @property
    def place(self) -> str:
        return str(self.root)

    def name(self, position: int) -> str:
        return str(self._path(position))

    def read(self, position: int) -> bytes:
        return self._path(position).read_bytes()

    def _path(self, position: int) -> Path:
        return self.root / os.fsdecode(self.paths[position])


def list_folder(folder: Path, layout: str) -> FolderFiles:
    """The images in the class folders of ``folder``; UserError where it has none, or a class has none."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

    try:
        classes, numbers = find_classes(folder)
    except FileNotFoundError:
        raise UserError(f"{folder} is empty; {layout}") from None
    samples = make_dataset(folder, numbers, extensions=IMG_EXTENSIONS, allow_empty=True)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    empty = [classes[number] for number in np.setdiff1d(np.arange(len(classes)), labels)]
    if empty:
        raise UserError(f"{folder} has class folders without an image ({', '.join(IMG_EXTENSIONS)}): {some(empty)}")
    paths = np.array([os.fsencode(os.path.relpath(path, folder)) for path, _ in samples])
    return FolderFiles(folder, tuple(classes), paths, labels)


def some(names: list[str], limit: int = 5) -> str:
    """The first few names, for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
