"""Which part of an image is shown, and how large: the same for every backend.

The random window of a sample depends on the seed, the epoch and the sample's position only, so the number of workers and
ranks, the backend and a resume change nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dist_sparse.seeding import uniforms

ASPECTS = (math.log(3 / 4), math.log(4 / 3))
TRIES = 10


class Key(NamedTuple):
    """What a batch asks for."""

    epoch: int
    position: int


class Window(NamedTuple):
    """Pixels ``[top, top + height) x [left, left + width)`` of an image are what is needed of it.

    The region ``roi`` of that (top, left, bottom, right, in pixels from its corner) becomes an image of ``size`` pixels a side.
    """

    top: int
    left: int
    height: int
    width: int
    roi: tuple[float, float, float, float]
    size: int
    flip: bool


class Windows(Protocol):
    """How a split is looked at."""

    def __call__(self, key: Key, height: int, width: int) -> Window:
        """The window on an image of so many pixels."""
        ...


@dataclass(frozen=True)
class RandomWindows:
    """A random part of the image, flipped at random: torchvision's RandomResizedCrop and RandomHorizontalFlip."""

    seed: int
    min_scale: float
    flip: bool
    size: Callable[[int], int]
    """The side of the images in an epoch, in pixels."""

    def __call__(self, key: Key, height: int, width: int) -> Window:
        flip, down, right, *tries = uniforms(3 + 2 * TRIES, "augment", self.seed, key.epoch, key.position)
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
        )


@dataclass(frozen=True)
class CentreWindows:
    """The centre of the image with its shorter side at ``resize_ratio`` times ``size``: torchvision's Resize and CenterCrop.

    Only what the crop needs of the image is asked for, so nothing around it is decoded or resized.
    """

    size: Callable[[int], int]
    """The side of the images in an epoch, in pixels."""
    resize_ratio: float

    def __call__(self, key: Key, height: int, width: int) -> Window:
        size = self.size(key.epoch)
        shorter = round(self.resize_ratio * size)
        first, last = zip(*(_centre(side, min(height, width), shorter, size) for side in (height, width)), strict=True)
        # A filter that shrinks by s takes in s pixels to either side.
        reach = math.ceil(max(1.0, min(height, width) / shorter)) + 1
        top, left = (max(0, math.floor(place) - reach) for place in first)
        bottom, right = (min(side, math.ceil(place) + reach) for place, side in zip(last, (height, width), strict=True))
        roi = (first[0] - top, first[1] - left, last[0] - top, last[1] - left)
        return Window(top, left, bottom - top, right - left, roi, size, flip=False)


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


def _centre(side: int, shortest: int, shorter: int, size: int) -> tuple[float, float]:
    """Where the centre crop begins and ends on one side of the image, in its own pixels."""
    resized = shorter * side // shortest
    start = round((resized - size) / 2)
    return start * side / resized, (start + size) * side / resized
