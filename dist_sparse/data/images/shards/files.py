"""The images of one split in shards."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_sparse.data.identity import stems
from dist_sparse.data.images.shards.index import Index
from dist_sparse.data.reading import read_regular
from dist_sparse.errors import UserError, one_line
from dist_sparse.files import atomic_write

CLASSES = "classes.json"
"""The names of the classes, a list by number, in the folder of the shards that our packer has made."""

_PACKED = re.compile(rb"(\d{8,})-(.+)", re.DOTALL)
"""A name that our packer has given: the position, and the file's own."""


@dataclass(frozen=True)
class ShardFiles:
    """See :class:`dist_sparse.data.images.files.ImageFiles`."""

    root: Path
    index: Index
    classes: tuple[str, ...]
    """Their names, or else the numbers that the shards give them, as text; ours count from 0 in the order of those numbers."""
    labels: np.ndarray
    named: bool

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes if self.named else ()

    def keys(self) -> list[bytes]:
        names = [_own_name(name, position) for position, name in enumerate(self.index.names.tolist())]
        sizes = self.index.places[:, 2].tolist()
        return [stem or b"%d bytes" % size for stem, size in zip(stems(names), sizes, strict=True)]

    @property
    def place(self) -> str:
        return one_line(self.root)

    def name(self, position: int) -> str:
        shard, offset, _ = self.index.places[position].tolist()
        return one_line(f"{self._shard(shard)}: {os.fsdecode(self.index.names[position]) or f'the image at byte {offset}'}")

    def read(self, position: int) -> bytes:
        shard, offset, size = self.index.places[position].tolist()
        with self._shard(shard).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def _shard(self, number: int) -> Path:
        return self.root / str(self.index.shards[number])


def list_shards(folder: Path, index: Index) -> ShardFiles:
    """The images of ``folder`` that its index tells of; UserError where its names of the classes cannot be used."""
    numbers, labels = np.unique(index.labels, return_inverse=True)
    names = _class_names(folder / CLASSES, numbers.tolist())
    return ShardFiles(folder, index, names or tuple(map(str, numbers.tolist())), labels.astype(np.int64), named=bool(names))


def save_class_names(folder: Path, names: Sequence[str]) -> None:
    """Keep the names of the classes with the shards; OSError as the file system says."""
    atomic_write(folder / CLASSES, lambda file: file.write(json.dumps(names, indent=0).encode()))


def _class_names(path: Path, numbers: list[int]) -> tuple[str, ...]:
    try:
        names = json.loads(read_regular(path))
        if not isinstance(names, list):
            raise TypeError
        by_number = dict(enumerate(names))
        return tuple(str(by_number[number]) for number in numbers)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{one_line(path)} is not a list of names of all classes; mend it or remove it") from None


def _own_name(name: bytes, position: int) -> bytes:
    packed = _PACKED.fullmatch(name.rpartition(b"/")[2])
    return packed[2] if packed and int(packed[1]) == position else name
