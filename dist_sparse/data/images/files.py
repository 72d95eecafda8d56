"""Image files wherever they lie, and reading one of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from dist_sparse.data.decoding import BadImage, decode, guarded, opened
from dist_sparse.data.pixels import is_alike

T = TypeVar("T")

END_OF_JPEG = b"\xff\xd9"
SLACK = 64
"""Bytes that may follow the end of a JPEG without waking suspicion."""


class ImageFiles(Protocol):
    """The encoded images of one split; an image's place among them is its position in the data set."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The same, or empty where ``classes`` are but numbers."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """[N] int64 class numbers."""
        ...

    def keys(self) -> list[bytes]:
        """What tells the images apart, the same in folders and in shards of them (:mod:`dist_sparse.data.identity`)."""
        ...

    @property
    def place(self) -> str:
        """Where they lie, for messages."""
        ...

    def name(self, position: int) -> str:
        """What a message calls the image: its path, or its shard and its name there."""
        ...

    def read(self, position: int) -> bytes:
        """The whole encoded image; OSError where it cannot be read."""
        ...


@dataclass(frozen=True)
class ChosenFiles:
    """Those of ``files`` at ``positions``, which count anew from 0; of all classes."""

    files: ImageFiles
    positions: np.ndarray
    labels: np.ndarray
    """Theirs alone. Kept, since every sample asks for them."""

    @classmethod
    def among(cls, files: ImageFiles, positions: np.ndarray) -> "ChosenFiles":
        return cls(files, positions, files.labels[positions])

    @property
    def classes(self) -> tuple[str, ...]:
        return self.files.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.files.class_names

    def keys(self) -> list[bytes]:
        keys = self.files.keys()
        return [keys[position] for position in self.positions.tolist()]

    @property
    def place(self) -> str:
        return self.files.place

    def name(self, position: int) -> str:
        return self.files.name(int(self.positions[position]))

    def read(self, position: int) -> bytes:
        return self.files.read(int(self.positions[position]))


class Encoded(NamedTuple):
    """A whole file, and the size in pixels of the image in it."""

    data: bytes
    height: int
    width: int
    alike: bool = True
    """Whether DALI gives the pixels that Pillow gives."""


def read_image(files: ImageFiles, position: int) -> Image.Image | BadImage:
    """Read a file and decode it to RGB."""
    return decode(lambda: files.read(position), files.name(position))


def read_encoded(files: ImageFiles, position: int) -> Encoded | BadImage:
    """Read a file and the head of the image in it, and see that a JPEG is whole; other errors are the decoder's to find."""

    def head() -> Encoded:
        data = files.read(position)
        with opened(data) as image:
            width, height = image.size
            if image.format == "JPEG" and END_OF_JPEG not in data[-SLACK:]:
                image.load()
            return Encoded(data, height, width, is_alike(image))

    return guarded(head, files.name(position))


def read_plain(files: ImageFiles, position: int) -> Encoded | BadImage:
    """Read a file, decode it, and encode the image as plain pixels (PPM), which every decoder reads alike."""
    image = read_image(files, position)
    if isinstance(image, BadImage):
        return image
    return Encoded(b"P6 %d %d 255\n" % image.size + image.tobytes(), image.height, image.width)


def first_good(
    files: ImageFiles, position: int, read: Callable[[ImageFiles, int], T | BadImage], *, substitute: bool
) -> tuple[T | None, int, list[BadImage]]:
    """The image at ``position`` as ``read`` gives it, or with ``substitute`` the next good one after a bad one.

    Returns:
        The image (None where there is no good one), its position, and the bad ones on the way.
    """
    bad: list[BadImage] = []
    for offset in range(len(files.labels) if substitute else 1):
        index = (position + offset) % len(files.labels)
        image = read(files, index)
        if not isinstance(image, BadImage):
            return image, index, bad
        bad.append(image)
    return None, -1, bad
