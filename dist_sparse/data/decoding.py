"""Decodes images without letting a corrupt one through."""

import io
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from PIL import Image, UnidentifiedImageError

from dist_sparse.data.pixels import to_rgb
from dist_sparse.errors import one_line

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "AVIF")
"""What a file may hold, whatever its name says. Not all that Pillow knows: it starts Ghostscript for PostScript, say."""


class BadImage(NamedTuple):
    """An image that could not be decoded, and why, in one line."""

    name: str
    reason: str


def decode(read: Callable[[], bytes], name: str) -> Image.Image | BadImage:
    """The image in what ``read`` gives, as RGB; ``name`` is what a message calls it."""

    def whole() -> Image.Image:
        with opened(read()) as image:
            return to_rgb(image)

    return guarded(whole, name)


def opened(data: bytes) -> Image.Image:
    """An encoded image, whose head is read. Pillow's errors, and ValueError for an empty file."""
    if not data:
        raise ValueError("the file is empty")
    return Image.open(io.BytesIO(data), formats=FORMATS)


def guarded(read: Callable[[], T], name: str) -> T | BadImage:
    """What ``read`` gives; an error comes back as a BadImage, so that it crosses from a worker in one piece."""
    try:
        return read()
    except UnidentifiedImageError:
        return BadImage(name, "not an image in a known format")
    except Exception as error:  # whatever broken bytes make Pillow's many formats trip over
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return BadImage(name, one_line(" ".join(words.split())) or type(error).__name__)
