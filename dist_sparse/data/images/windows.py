"""Which part of an image is shown, and how large: the same for every backend.

The random window of a sample depends on the seed, the epoch and the sample's position only, so the number of workers and
ranks, the backend and a resume change nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from dist_sparse.data.order import Key
from dist_sparse.seeding import uniforms

ASPECTS = (math.log(3 / 4), math.log(4 / 3))
TRIES = 10

Interpolation = Literal["bilinear", "bicubic", "random"]
Colour = tuple[int, int, int]


class Window(NamedTuple):
    """Pixels ``[top, top + height) x [left, left + width)`` of an image are what is needed of it.

    The region ``roi`` of that (top, left, bottom, right, in pixels from its corner) becomes an image of ``size`` pixels a side,
    or the part of it that ``place`` says.
    """

    top: int
    left: int
    height: int
    width: int
    roi: tuple[float, float, float, float]
    size: int
    flip: bool = False
    vertical_flip: bool = False
    cubic: bool = False
    """Resized by bicubic interpolation, not by bilinear."""
    place: tuple[int, int, int, int] | None = None
    """Top, left, height and width in the image of ``size``; a border is around it. None: it fills the image."""

    @property
    def shown(self) -> tuple[int, int]:
        """Height and width that ``roi`` is resized to."""
        return (self.size, self.size) if self.place is None else self.place[2:]


class Windows(Protocol):
    """How a split is looked at."""

    @property
    def border(self) -> Colour | None:
        """The colour around images that do not fill their place; None where all do."""
        ...

    @property
    def interpolation(self) -> Interpolation:
        """How images are resized: ``random`` where each window says so for itself."""
        ...

    def __call__(self, key: Key, height: int, width: int) -> Window:
        """The window on an image of so many pixels."""
        ...


@dataclass(frozen=True)
class RandomWindows:
    """A random part of the image: torchvision's RandomResizedCrop, and its random flips in either direction."""

    seed: int
    min_scale: float
    flip: bool
    size: Callable[[int], int]
    """The side of the images in an epoch, in pixels."""
    vertical_flip: bool = False
    interpolation: Interpolation = "bilinear"

    @property
    def border(self) -> Colour | None:
        return None

    def __call__(self, key: Key, height: int, width: int) -> Window:
        flip, down, right, *tries = uniforms(3 + 2 * TRIES, *key.purpose("augment", self.seed))
        sides = _random_sides(tries, height, width, self.min_scale)
        if sides is None:
            sides, down, right = _central_sides(height, width), 0.5, 0.5
        rows, columns = sides
        return Window(
            top=int(down * (height - rows + 1)),
            left=int(right * (width - columns + 1)),
            height=rows,
            width=columns,
            roi=(0.0, 0.0, float(rows), float(columns)),
            size=self.size(key.epoch),
            flip=self.flip and flip < 0.5,
            vertical_flip=self.vertical_flip and self._half("vertical flip", key),
            cubic=self._half("interpolation", key) if self.interpolation == "random" else self.interpolation == "bicubic",
        )

    def _half(self, purpose: str, key: Key) -> bool:
        """True for every second view, at random."""
        return uniforms(1, *key.purpose(purpose, self.seed))[0] < 0.5


@dataclass(frozen=True)
class CentreWindows:
    """The centre of the image, with a side of it resized to ``resize_ratio`` times ``size``: timm's three modes.

    With ``center`` that is the shorter side: torchvision's Resize and CenterCrop. With ``border`` it is the longer one, and
    what the other lacks is a border. With ``squash`` it is both. Only what the crop needs of the image is asked for, so nothing
    around it is decoded or resized.
    """

    size: Callable[[int], int]
    """The side of the images in an epoch, in pixels."""
    resize_ratio: float
    mode: Literal["center", "border", "squash"] = "center"
    interpolation: Interpolation = "bilinear"
    """One of the two."""
    colour: Colour = (0, 0, 0)

    @property
    def border(self) -> Colour | None:
        return self.colour if self.mode == "border" else None

    def __call__(self, key: Key, height: int, width: int) -> Window:
        size = self.size(key.epoch)
        wanted = round(self.resize_ratio * size)
        spans = [_centre(side, resized, size) for side, resized in self._resized(height, width, wanted)]
        support = 2 if self.interpolation == "bicubic" else 1
        # A filter that shrinks by s takes in s pixels to either side, or twice as many.
        reaches = [math.ceil(support * max(1.0, span.scale)) + 1 for span in spans]
        top, left = (max(0, math.floor(span.first) - reach) for span, reach in zip(spans, reaches, strict=True))
        bottom, right = (
            min(side, math.ceil(span.last) + reach) for span, side, reach in zip(spans, (height, width), reaches, strict=True)
        )
        (row, rows), (column, columns) = (span.place for span in spans)
        return Window(
            top,
            left,
            bottom - top,
            right - left,
            roi=(spans[0].first - top, spans[1].first - left, spans[0].last - top, spans[1].last - left),
            size=size,
            cubic=self.interpolation == "bicubic",
            place=None if (rows, columns) == (size, size) else (row, column, rows, columns),
        )

    def _resized(self, height: int, width: int, wanted: int) -> list[tuple[int, int]]:
        """Each side, and what it is resized to, rounded as by torchvision's Resize, or timm's ResizeKeepRatio for a border."""
        if self.mode == "squash":
            return [(side, wanted) for side in (height, width)]
        if self.mode == "border":
            ratio = max(height, width) / wanted
            return [(side, max(1, round(side / ratio))) for side in (height, width)]
        shortest = min(height, width)
        return [(side, wanted * side // shortest) for side in (height, width)]


def _random_sides(tries: list[float], height: int, width: int, min_scale: float) -> tuple[int, int] | None:
    """Height and width of a part with a random area and aspect, the first that fits; ``tries`` are pairs of draws."""
    low, high = ASPECTS
    for area_draw, aspect_draw in zip(tries[::2], tries[1::2], strict=True):
        area = height * width * (min_scale + (1 - min_scale) * area_draw)
        aspect = math.exp(low + (high - low) * aspect_draw)
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            return rows, columns
    return None


def _central_sides(height: int, width: int) -> tuple[int, int]:
    """The largest part with an aspect within the bounds."""
    narrowest, widest = (math.exp(bound) for bound in ASPECTS)
    return min(height, round(width / narrowest)), min(width, round(height * widest))


class _Span(NamedTuple):
    """What the centre crop shows of one side of the image, in its own pixels."""

    first: float
    last: float
    scale: float
    """Pixels of the image for one that is shown."""
    place: tuple[int, int]
    """Where that begins in the crop, and how many pixels it has there."""


def _centre(side: int, resized: int, size: int) -> _Span:
    scale = side / resized
    if resized < size:
        return _Span(0.0, float(side), scale, ((size - resized) // 2, resized))
    start = round((resized - size) / 2)
    return _Span(start * side / resized, (start + size) * side / resized, scale, (0, size))
