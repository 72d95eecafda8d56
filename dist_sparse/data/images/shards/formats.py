"""The formats of shards, by the name that the packer takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dist_sparse.data.images.shards import tfrecord, webdataset
from dist_sparse.data.images.shards.entry import Entry

Packed = tuple[str, bytes, int]
"""A sample's name, encoded image and label."""


@dataclass(frozen=True)
class Format:
    """How a kind of shard is recognised, named, read and written."""

    patterns: tuple[str, ...]
    """Patterns of the shards' file names."""
    file_name: str
    """With the split, the shard's number and their count."""
    scan: Callable[[Path], Iterator[Entry]]
    write: Callable[[Iterable[Packed], BinaryIO], None]
    sample_name: Callable[[int, str], str]
    """A sample's name, from its position and the name of the image's file."""


FORMATS = {
    "webdataset": Format(
        patterns=("*.tar",),
        file_name="{split}-{number:06d}.tar",
        scan=webdataset.scan,
        write=webdataset.write,
        sample_name=webdataset.sample_name,
    ),
    "tfrecord": Format(
        patterns=("*.tfrecord", "*.tfrecords", "*-?????-of-?????"),
        file_name="{split}-{number:05d}-of-{count:05d}",
        scan=tfrecord.scan,
        write=tfrecord.write,
        sample_name=tfrecord.sample_name,
    ),
}
