"""WebDataset shards: tars in which the files of a sample follow one another and share a name up to its first dot."""

import io
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

from dist_sparse.data.images.shards.entry import Entry, ForeignShard, TruncatedShard

IMAGES = ("jpg", "jpeg", "png", "ppm", "pgm", "bmp", "tif", "tiff", "webp")
LABEL = "cls"

_USUAL_RECORD = 128 * tarfile.BLOCKSIZE
"""The zeros behind a tar's last file fill a record, which by custom has at most so many bytes, or else a power of two."""


def scan(path: Path) -> Iterator[Entry]:
    """The samples of a shard in order. Reads the heads of its files and the labels, not the images."""
    key, image, label = "", None, None
    with path.open("rb") as file:
        for member_key, extension, member in _members(file):
            if member_key != key and key:
                yield _entry(key, image, label)
                image, label = None, None
            key = member_key
            if extension in IMAGES:
                image = member
            elif extension == LABEL:
                label = _label(file, member, key)
        if key:
            yield _entry(key, image, label)


def write(samples: Iterable[tuple[str, bytes, int]], file: BinaryIO) -> None:
    """Fill a shard with samples of name, encoded image and label."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data, label in samples:
            _add(tar, name, data)
            _add(tar, f"{name.partition('.')[0]}.{LABEL}", str(label).encode())


def sample_name(position: int, file: str) -> str:
    """What a packed file is called: no dot but the one before its extension, which ends the sample's key."""
    path = PurePath(file)
    return f"{position:08d}-{path.stem.replace('.', '_')}{path.suffix.lower()}"


def _members(file: BinaryIO) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and place of each file in a tar."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember them all
                stem, _, extension = PurePath(member.name).name.partition(".")
                if member.isfile() and stem:
                    yield member.name.removesuffix(f".{extension}"), extension.lower(), member
            end = tar.offset
    except tarfile.ReadError as error:
        raise TruncatedShard(str(error)) from None
    _check_end(file, end)


def _check_end(file: BinaryIO, end: int) -> None:
    """Raise an error unless the tar ends at ``end``: tarfile stops there at a damaged head of a file as well."""
    size = file.seek(0, io.SEEK_END)
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise TruncatedShard("the end of the archive is missing")
    if any(block):
        raise TruncatedShard(f"the head of a file is damaged, at byte {end}")
    record = max(_USUAL_RECORD, size & -size)  # a power of two that divides the file's size
    if size - end > record + 2 * tarfile.BLOCKSIZE or _holds_more(file):
        raise TruncatedShard(f"zeros stand in the place of the rest, from byte {end} on")


def _holds_more(file: BinaryIO) -> bool:
    """Anything but zeros follows."""
    return any(chunk.strip(b"\0") for chunk in iter(partial(file.read, 1 << 20), b""))


def _label(file: BinaryIO, member: tarfile.TarInfo, key: str) -> int:
    place = file.tell()
    file.seek(member.offset_data)
    text = file.read(member.size)
    file.seek(place)
    if len(text) < member.size:
        raise TruncatedShard("unexpected end of data")
    try:
        return int(text)
    except ValueError:
        raise ForeignShard(f"sample {key}: its .{LABEL} holds {text[:20]!r}, not the number of a class") from None


def _entry(key: str, image: tarfile.TarInfo | None, label: int | None) -> Entry:
    if image is None or label is None:
        lacking = f".{LABEL}" if image is not None else f"image ({', '.join(IMAGES)})"
        raise ForeignShard(f"sample {key} has no {lacking}")
    return Entry(image.name, image.offset_data, image.size, label)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
