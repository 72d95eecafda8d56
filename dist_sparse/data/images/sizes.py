"""Sides of the images over time: progressive resizing, and an evaluation size of its own."""

from dataclasses import dataclass

from dist_sparse.config.data import DataConfig, ProgressiveConfig
from dist_sparse.errors import UserError

DEFAULT_IMAGE_SIZE = 224
RESIZE = 8 / 7
"""Shorter side before the centre crop over the crop's: 256 for 224."""


@dataclass(frozen=True)
class Sizes:
    """All sides of images in pixels; ``first`` and ``ramp`` (epochs, from and to) only where they grow."""

    train: int
    evaluation: int
    resize: int
    first: int | None = None
    ramp: tuple[float, float] = (0.0, 0.0)
    multiple: int = 1

    def at(self, epoch: int) -> int:
        """The side of the training images of an epoch, a linear function of it within the ramp."""
        start, end = self.ramp
        if self.first is None or epoch >= end:
            return self.train
        if epoch <= start:
            return self.first
        exact = self.first + (self.train - self.first) * (epoch - start) / (end - start)
        rounded = int(exact / self.multiple + 0.5) * self.multiple
        return min(max(rounded, self.first), self.train)

    def in_validation(self, _epoch: int) -> int:
        """The side of the validation images."""
        return self.evaluation


def sizes_of(config: DataConfig, *, epochs: int, steps_per_epoch: int) -> Sizes:
    """The sides that a run of so many epochs asks for; UserError where they do not fit together."""
    train = config.image_size or DEFAULT_IMAGE_SIZE
    evaluation = config.eval_size or train
    resize = round(RESIZE * evaluation) if config.resize is None else config.resize
    if resize < evaluation:
        key = "data.eval_size" if config.eval_size else "data.image_size"
        raise UserError(f"data.resize={resize} should be at least {key}={evaluation}")
    progressive = config.progressive
    if progressive.start_size is None:
        if progressive != ProgressiveConfig():
            raise UserError("data.progressive does nothing without data.progressive.start_size")
        return Sizes(train, evaluation, resize)
    if progressive.start_size > train:
        raise UserError(f"data.progressive.start_size={progressive.start_size} should be at most data.image_size={train}")
    start, end = (
        length.steps(steps_per_epoch, steps_per_epoch * epochs) / steps_per_epoch
        for length in (progressive.start, progressive.end)
    )
    if start > end:
        raise UserError(
            f"data.progressive.start={progressive.start} should not be after data.progressive.end={progressive.end}"
        )
    return Sizes(train, evaluation, resize, progressive.start_size, (start, end), progressive.multiple)
