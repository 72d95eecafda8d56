"""How fast the images of a folder can be read from its disk, within a few seconds."""

import contextlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dist_sparse.doctor.finding import Finding, size
from dist_sparse.errors import one_line

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif", ".jp2", ".avif")
SHARDS = (".tar", ".tfrecord", ".bin", ".gz", ".npz")
_SECONDS = 3.0
_MOST_FILES = 20_000
_THREADS = 8
_PIECE = 1 << 22
_SLOW_IMAGES = 1000
_SLOW_BYTES = 100e6
"""An image of ImageNet has 110 KB: this is about as many of them a second."""


def reading(folder: Path | None, *, seconds: float = _SECONDS) -> Iterator[Finding]:
    """Read files of a folder, in random order, from the disk itself; for so many seconds, and as long to list them."""
    if folder is None:
        text = "not measured"
        yield Finding(name="reading images", status="note", text=text, advice="name a folder of images or shards: --data=DIR")
        return
    if not folder.is_dir():
        advice = "name the folder that holds train and val (data.root)"
        yield Finding(name="reading images", status="broken", text=f"{one_line(folder)} is no folder", advice=advice)
        return
    files = list_files(folder, seconds)
    images, shards = ([each for each in files if each.suffix.lower() in kinds] for kinds in (IMAGES, SHARDS))
    chosen = images or shards
    if not chosen:
        text = f"no images or shards in {one_line(folder)}, of {len(files):,} files that were listed"
        yield Finding(name="reading images", status="note", text=text, advice="name another folder: --data=DIR")
        return
    random.Random(0).shuffle(chosen)
    count, read, refused, taken = _read(chosen, seconds)
    if not read:
        advice = "see who may read them, and whether the disk is well"
        yield Finding(name="reading images", status="broken", text=f"none of {refused} files can be read", advice=advice)
        return
    speed, rate = count / taken, read / taken
    text = f"{size(rate)} a second by {_THREADS} threads, from {count:,} {'files' if images else 'shards'} ({size(read)})"
    text = f"{speed:,.0f} images and {text}" if images else text
    text += f"; {refused} could not be read" if refused else ""
    if refused:
        advice = "unreadable files end a run, or are left out with data.bad_images=skip"
        yield Finding(name="reading images", status="slow", text=text, advice=advice)
    elif speed < _SLOW_IMAGES if images else rate < _SLOW_BYTES:
        advice = "one GPU takes 1,000 to 3,000 images of ImageNet a second: use a local disk, or shards (dist_sparse.data.pack)"
        yield Finding(name="reading images", status="slow", text=text, advice=advice)
    else:
        yield Finding(name="reading images", status="ok", text=text)


def list_files(folder: Path, seconds: float) -> list[Path]:
    """Files beneath a folder, from as many of its folders as the time allows, each looked into in random order."""
    until, found, draw = time.monotonic() + seconds, [], random.Random(0)
    waiting = [folder]
    while waiting and len(found) < _MOST_FILES and time.monotonic() < until:
        place = waiting.pop(draw.randrange(len(waiting)))
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(Path(entry.path))
                else:
                    found.append(Path(entry.path))
                if len(found) >= _MOST_FILES or time.monotonic() >= until:
                    break
    return found


def _read(files: Sequence[Path], seconds: float) -> tuple[int, int, int, float]:
    """Files and bytes that were read, files that could not be, and the seconds it took."""
    start = time.monotonic()
    until = start + seconds

    def read(share: Sequence[Path]) -> tuple[int, int, int]:
        count = length = refused = 0
        for file in share:
            if time.monotonic() >= until:
                break
            try:
                length += _read_one(file, until)
                count += 1
            except OSError:
                refused += 1
        return count, length, refused

    with ThreadPoolExecutor(_THREADS) as pool:
        shares = list(pool.map(read, [files[first::_THREADS] for first in range(_THREADS)]))
    count, length, refused = map(sum, zip(*shares, strict=True))
    return count, length, refused, max(time.monotonic() - start, 1e-6)


def _read_one(file: Path, until: float) -> int:
    """Read a file, or a part of it once the time is over, from the disk if the system can be asked to forget what it has."""
    descriptor, length = os.open(file, os.O_RDONLY | os.O_NONBLOCK), 0  # a pipe would wait for its writer
    try:
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        while piece := os.read(descriptor, _PIECE):
            length += len(piece)
            if time.monotonic() >= until:
                break
    finally:
        os.close(descriptor)
    return length
