"""From the pixels that a file holds to 8-bit RGB, and which files every decoder reads alike."""

import numpy as np
from PIL import Image

_ALIKE = {
    "JPEG": ("L", "RGB"),
    "MPO": ("RGB",),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "WEBP": ("RGB", "RGBA"),
}
"""Modes, by format, in which DALI and Pillow were found to agree to two levels. In others DALI scales a grey map by its type
and not by its maximum, or knows no Lab, say; and such files are too rare among photographs for their time to count."""

_LEVELS_OF_16_BITS = 257
"""65535 / 255."""


def is_alike(image: Image.Image) -> bool:
    """Whether DALI shows an opened image as :func:`to_rgb` does. ValueError where nobody can show it."""
    _check_range(image)
    return image.mode in _ALIKE.get(image.format or "", ())


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as 8-bit RGB: 16-bit grey is scaled (Pillow cuts it off at 255), transparency is left out.

    Raises:
        ValueError: pixels of 32 bits, of which no file says what is white.
    """
    _check_range(image)
    if not _has_16_bits(image):
        return image.convert("RGB")
    levels = np.asarray(image).astype(np.int64)
    grey = (levels.clip(0, 65_535) + _LEVELS_OF_16_BITS // 2) // _LEVELS_OF_16_BITS
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _has_16_bits(image: Image.Image) -> bool:
    # A grey map or PNG of 16 bits can come as whole numbers of 32.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _check_range(image: Image.Image) -> None:
    if image.mode in ("I", "F") and not _has_16_bits(image):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise ValueError(f"{kind} pixels have no range that says what is white; save it with 8 or 16 bits a channel")
