"""Tiny-ImageNet: 200 classes of 500 training and 50 held-out JPEGs of 64x64 pixels, decoded once and kept as a tensor.

Stanford CS231N, http://cs231n.stanford.edu/tiny-imagenet-200.zip.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

import numpy as np
import torch
from filelock import FileLock

from dist_sparse.data.decoding import BadImage, decode
from dist_sparse.data.reading import read_regular
from dist_sparse.data.small_set import MissingFilesError, Split
from dist_sparse.errors import UserError

FOLDER = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{FOLDER}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

logger = logging.getLogger(__name__)

Labelled = tuple[Path, int]


def read_tiny_imagenet(root: Path) -> tuple[Split, Split]:
    """Training and held-out split; MissingFilesError where a file of the layout is missing, UserError for a corrupt one."""
    folder = root / FOLDER
    try:
        numbers = {wnid: number for number, wnid in enumerate(tiny_imagenet_names(root))}
        train = [
            (path, number)
            for wnid, number in numbers.items()
            for path in sorted((folder / "train" / wnid / "images").iterdir())
            if not path.name.startswith(".") and path.suffix == ".JPEG"
        ]
        lines = read_regular(folder / "val" / "val_annotations.txt").decode(errors="surrogateescape").splitlines()
    except OSError as error:
        raise MissingFilesError(str(error)) from error
    val = []
    for number, line in enumerate(lines, start=1):
        name, wnid, *_ = [*line.split("\t"), ""]  # then the bounding box
        if wnid not in numbers:
            raise UserError(f"{folder}/val/val_annotations.txt, line {number}: {wnid!r} is not one of the classes in wnids.txt")
        val.append((folder / "val" / "images" / name, numbers[wnid]))
    return _cached(folder / "train.pt", train), _cached(folder / "val.pt", val)


def tiny_imagenet_names(root: Path) -> list[str]:
    """The classes by number; OSError as the file system says."""
    return sorted(read_regular(root / FOLDER / "wnids.txt").decode(errors="surrogateescape").split())


def fetch_tiny_imagenet(root: Path) -> None:
    """Download, and unpack beside the final place: an interrupted run must not leave half a data set there."""
    from torchvision.datasets.utils import download_and_extract_archive

    if (root / FOLDER).exists():
        raise FileExistsError(f"{root / FOLDER} is there, but not complete; remove it first")
    with TemporaryDirectory(dir=root, prefix=".unpacking-") as unpacked:
        download_and_extract_archive(URL, str(root), extract_root=unpacked, md5=MD5)
        (Path(unpacked) / FOLDER).rename(root / FOLDER)


def _cached(cache: Path, files: Sequence[Labelled]) -> Split:
    """The decoded files, from ``cache`` if it was made from the same list; one of several processes makes it."""
    listing = hashlib.blake2b(
        "\n".join(f"{path.name} {label}" for path, label in files).encode(errors="surrogateescape")
    ).hexdigest()
    found = _load(cache, listing)
    if found is not None:
        return found
    if not os.access(cache.parent, os.W_OK):
        logger.warning("%s cannot be written; the images are decoded anew in every run", cache)
        return _decode(files)
    with FileLock(cache.with_suffix(".lock")):
        found = _load(cache, listing)
        if found is None:
            found = _decode(files)
            _save(cache, listing, found)
        return found


def _decode(files: Sequence[Labelled]) -> Split:
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        pixels = list(pool.map(_pixels, [path for path, _ in files]))
    odd = next((path for (path, _), image in zip(files, pixels, strict=True) if image.shape != pixels[0].shape), None)
    if odd is not None:
        raise UserError(f"{odd} is not of the other images' size; unpack {URL} again")
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor([label for _, label in files]))


def _pixels(path: Path) -> np.ndarray:
    image = decode(lambda: read_regular(path), str(path))
    if isinstance(image, BadImage):
        raise UserError(f"{path} cannot be decoded ({image.reason}); unpack {URL} again")
    return np.asarray(image)


def _load(cache: Path, listing: str) -> Split | None:
    if not cache.is_file():
        return None
    try:
        stored = torch.load(cache, weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        logger.warning("%s is damaged (%s); the images are decoded again", cache, str(error).splitlines()[0])
        return None
    same = isinstance(stored, dict) and stored.get("listing") == listing
    return Split(stored["images"], stored["labels"]) if same else None


def _save(cache: Path, listing: str, split: Split) -> None:
    """Write beside ``cache`` and rename, so that no reader ever sees half a file."""
    temporary = cache.with_suffix(f".{os.getpid()}.tmp")
    try:
        torch.save({"listing": listing, "images": split.images, "labels": split.labels}, temporary)
        temporary.replace(cache)
    except (OSError, RuntimeError) as error:  # a full disk, in torch's words or in Python's
        temporary.unlink(missing_ok=True)
        logger.warning(
            "%s could not be written (%s); the images are decoded anew in every run", cache, str(error).splitlines()[0]
        )
