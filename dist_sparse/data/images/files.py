"""Image files wherever they lie, and reading one without letting a corrupt one through."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from dist_sparse.data.images.pixels import is_alike, to_rgb
from dist_sparse.errors import one_line

T = TypeVar("T")

END_OF_JPEG = b"\xff\xd9"
SLACK = 64
"""Bytes that may follow the end of a JPEG without waking suspicion."""


FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "AVIF")
"""What a file may hold, whatever its name says. Not all that Pillow knows: it starts Ghostscript for PostScript, say."""


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


class BadImage(NamedTuple):
    """An image that could not be decoded, and why, in one line."""

    name: str
    reason: str


class Encoded(NamedTuple):
    """A whole file, and the size in pixels of the image in it."""

    data: bytes
    height: int
    width: int
    alike: bool = True
    """Whether DALI gives the pixels that Pillow gives."""


def decode(read: Callable[[], bytes], name: str) -> Image.Image | BadImage:
    """The image in what ``read`` gives, as RGB; ``name`` is what a message calls it."""

    def whole() -> Image.Image:
        with _opened(read()) as image:
            return to_rgb(image)

    return _guarded(whole, name)


def read_image(files: ImageFiles, position: int) -> Image.Image | BadImage:
    """Read a file and decode it to RGB."""
    return decode(lambda: files.read(position), files.name(position))


def read_encoded(files: ImageFiles, position: int) -> Encoded | BadImage:
    """Read a file and the head of the image in it, and see that a JPEG is whole; other errors are the decoder's to find."""

    def head() -> Encoded:
        data = files.read(position)
        with _opened(data) as image:
            width, height = image.size
            if image.format == "JPEG" and END_OF_JPEG not in data[-SLACK:]:
                image.load()
            return Encoded(data, height, width, is_alike(image))

    return _guarded(head, files.name(position))


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


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    return Image.open(io.BytesIO(data), formats=FORMATS)


def _guarded(read: Callable[[], T], name: str) -> T | BadImage:
    """What ``read`` gives; an error comes back as a BadImage, so that it crosses from a worker in one piece."""
    try:
        return read()
    except UnidentifiedImageError:
        return BadImage(name, "not an image in a known format")
    except Exception as error:  # whatever broken bytes make Pillow's many formats trip over
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return BadImage(name, one_line(" ".join(words.split())) or type(error).__name__)
