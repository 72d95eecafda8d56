"""Class folders of images, as ImageNet comes."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_sparse.data.identity import stems
from dist_sparse.data.reading import read_regular
from dist_sparse.errors import UserError, one_line

logger = logging.getLogger(__name__)


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
    def class_names(self) -> tuple[str, ...]:
        return self.classes

    def keys(self) -> list[bytes]:
        return stems(self.paths.tolist())

    @property
    def place(self) -> str:
        return one_line(self.root)

    def name(self, position: int) -> str:
        return one_line(self._path(position))

    def file_name(self, position: int) -> str:
        """The file's own name, as it is."""
        return self._path(position).name

    def read(self, position: int) -> bytes:
        return read_regular(self._path(position))

    def _path(self, position: int) -> Path:
        return self.root / os.fsdecode(self.paths[position])


def list_folder(folder: Path, layout: str) -> FolderFiles:
    """The images in the class folders of ``folder``; UserError where it has none, or a class has none.

    The order is that of torchvision's ImageFolder. Hidden files and folders (``._1.JPEG`` of a Mac, say) are left out, and
    links to folders followed, but not in a circle.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    try:
        classes, loose = _classes(folder, IMG_EXTENSIONS)
        if not classes:
            raise UserError(f"{one_line(folder)} {_without_classes(folder, loose)}; {layout}")
        if len(classes) == 1 and (inner := _classes_further_in(folder / classes[0], IMG_EXTENSIONS)):
            raise UserError(
                f"{one_line(folder)} has only the folder {one_line(classes[0])}, with no image but "
                f"{len(inner)} folders in it ({some(inner, 3)}): if these are the classes, move them one level up; {layout}"
            )
        found = [_images(folder / name, IMG_EXTENSIONS) for name in classes]
    except OSError as error:
        raise UserError(f"{one_line(error.filename or folder)} cannot be read: {error.strerror}") from None
    if empty := [name for name, paths in zip(classes, found, strict=True) if not paths]:
        raise UserError(f"{one_line(folder)} has class folders without an image ({', '.join(IMG_EXTENSIONS)}): {some(empty)}")
    if loose:
        logger.warning("%s: images outside the class folders are left out: %s", one_line(folder), some(loose, 1))
    start = len(os.fspath(folder)) + 1
    return FolderFiles(
        folder,
        tuple(classes),
        np.array([os.fsencode(path[start:]) for paths in found for path in paths]),
        np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in found]),
    )


def some(names: list[str], limit: int = 5) -> str:
    """The first few names, for a message."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(one_line, names[:limit])) + more


def _classes(folder: Path, extensions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The folders in ``folder``, sorted, and the images that lie there beside them."""
    with os.scandir(folder) as entries:
        seen = [(entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    loose = [name for name, is_folder in seen if not is_folder and name.lower().endswith(extensions)]
    return sorted(name for name, is_folder in seen if is_folder), sorted(loose)


def _classes_further_in(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """The folders in ``folder`` if it holds no image itself."""
    inner, images = _classes(folder, extensions)
    return [] if images else inner


def _without_classes(folder: Path, images: list[str]) -> str:
    if images:
        return (
            f"holds {len(images)} images ({some(images, 1)}) without class folders, so nothing says which class they are of; "
            "move each into a folder of its class (for ImageNet: by the list of labels that comes with it)"
        )
    others = sorted(entry.name for entry in os.scandir(folder))
    return f"has no class folder, only {some(others, 3)}" if others else "is empty"


def _images(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """Paths of the images in ``folder`` and below, those of a folder together, folders in the order of their paths."""
    above = frozenset(_identity(each) for each in folder.resolve().parents)
    found = sorted(_walk(os.fspath(folder), above), key=lambda pair: pair[0])
    return [os.path.join(place, name) for place, names in found for name in sorted(names) if name.lower().endswith(extensions)]  # noqa: PTH118


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it with the names of their files; ``above`` are those that a link would lead back to."""
    if (own := _identity(folder)) in above:
        return
    with os.scandir(folder) as entries:
        seen = [(entry.name, entry.path, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    yield folder, [name for name, _, is_folder in seen if not is_folder]
    for _, path, is_folder in seen:
        if is_folder:
            yield from _walk(path, above | {own})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, say
        return False


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 -- a Path for each of a thousand folders is no help
    return status.st_dev, status.st_ino
