"""The images of one split in shards."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_sparse.data.images.shards.index import Index


@dataclass(frozen=True)
class ShardFiles:
    """See :class:`dist_sparse.data.images.files.ImageFiles`."""

    root: Path
    index: Index
    classes: tuple[str, ...]
    """The numbers that the shards give the classes, as text; ours count from 0 in the order of theirs."""
    labels: np.ndarray

    @property
    def place(self) -> str:
        return str(self.root)

    def name(self, position: int) -> str:
        shard, offset, _ = self.index.places[position].tolist()
        return f"{self._shard(shard)}: {os.fsdecode(self.index.names[position]) or f'the image at byte {offset}'}"

    def read(self, position: int) -> bytes:
        shard, offset, size = self.index.places[position].tolist()
        with self._shard(shard).open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)

    def _shard(self, number: int) -> Path:
        return self.root / str(self.index.shards[number])


def list_shards(folder: Path, index: Index) -> ShardFiles:
    """The images of ``folder`` that its index tells of."""
    numbers, labels = np.unique(index.labels, return_inverse=True)
    return ShardFiles(folder, index, tuple(str(number) for number in numbers.tolist()), labels.astype(np.int64))
