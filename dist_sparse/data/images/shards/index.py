"""Where in its shards each image of a split lies: found once, and kept beside them."""

import logging
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dist_sparse.data.images.shards.entry import Entry, ForeignShard, TruncatedShard
from dist_sparse.errors import UserError, one_line
from dist_sparse.files import atomic_write

INDEX = "index.npz"
"""The index's name, in the folder of the shards."""

logger = logging.getLogger(__name__)


class Index(NamedTuple):
    """Where N images in S shards lie, in the order of the images' names, or of the shards where they have none."""

    shards: np.ndarray
    """[S] file names."""
    sizes: np.ndarray
    """[S] int64, bytes of each shard: with another size the index is out of date."""
    places: np.ndarray
    """[N, 3] int64: an image's shard, its offset there and its size in bytes."""
    labels: np.ndarray
    """[N] int64, as the shards give them."""
    names: np.ndarray
    """[N] bytes."""
    times: np.ndarray = np.zeros(0, dtype=np.int64)
    """[S] int64, nanoseconds, when each shard was last written: with another time the index is out of date as well. Empty in an
    index of an earlier version."""


def open_index(
    folder: Path, shards: Sequence[Path], scan: Callable[[Path], Iterator[Entry]], *, skip_damage: bool, name: str = INDEX
) -> Index:
    """The index of ``shards``, which lie in ``folder``: the one that lies there as ``name`` if it fits them, else a new one.

    Raises:
        UserError: a shard is damaged (unless ``skip_damage``), is of something else, or there is no image.
    """
    sizes, times = np.array([_size_and_time(shard) for shard in shards], dtype=np.int64).T
    names = np.array([shard.name for shard in shards])
    index = _load(folder / name)
    current = ("shards", names), ("sizes", sizes), ("times", times)
    if index is not None and all(np.array_equal(getattr(index, what), now) for what, now in current):
        return index
    logger.info("reading %d shards in %s for their index", len(shards), folder)
    found: list[tuple[int, Entry]] = []
    damaged = False
    for number, shard in enumerate(shards):
        damaged |= _scan(shard, scan, lambda entry, number=number: found.append((number, entry)), skip_damage=skip_damage)
    if not found:
        raise UserError(f"{folder}: the shards hold no image")
    index = _sorted(names, sizes, times, found)
    if not damaged:
        save_index(folder / name, index)
    return index


def _size_and_time(shard: Path) -> tuple[int, int]:
    try:
        status = shard.stat()
    except OSError as error:
        raise UserError(f"{one_line(shard)} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{one_line(shard)} is not a file, but a folder, a pipe or a device")
    return status.st_size, status.st_mtime_ns


def save_index(path: Path, index: Index) -> None:
    """Keep an index for the next run; a folder that cannot be written to only costs the next run its time."""
    try:
        atomic_write(path, lambda file: np.savez(file, allow_pickle=False, **index._asdict()))
    except OSError as error:
        logger.warning("%s could not be written (%s); the shards are read anew in every run", path, error.strerror or error)


def _load(path: Path) -> Index | None:
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            return Index(**stored)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        logger.warning("%s is damaged; the shards are read anew", path)
        return None


def _scan(shard: Path, scan: Callable[[Path], Iterator[Entry]], take: Callable[[Entry], None], *, skip_damage: bool) -> bool:
    """Take the images of a shard; whether it is damaged."""
    count = 0
    try:
        for entry in scan(shard):
            take(entry)
            count += 1
    except TruncatedShard as error:
        message = f"{one_line(shard)} is damaged after {count} images ({error})"
        if not skip_damage:
            raise UserError(f"{message}; pack or copy it again, or set data.bad_images=skip") from None
        logger.warning("%s; going on without the rest of it", message)
        return True
    except ForeignShard as error:
        raise UserError(one_line(f"{shard}: {error}")) from None
    except OSError as error:
        raise UserError(f"{one_line(shard)} cannot be read: {error.strerror or error}") from None
    return False


def _sorted(shards: np.ndarray, sizes: np.ndarray, times: np.ndarray, found: list[tuple[int, Entry]]) -> Index:
    if all(entry.name for _, entry in found):
        found.sort(key=lambda pair: pair[1].name)
    return Index(
        shards=shards,
        sizes=sizes,
        places=np.array([(number, entry.offset, entry.size) for number, entry in found], dtype=np.int64),
        labels=np.array([entry.label for _, entry in found], dtype=np.int64),
        names=np.array([os.fsencode(entry.name) for _, entry in found]),
        times=times,
    )
