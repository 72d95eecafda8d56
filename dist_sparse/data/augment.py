"""Random crops and flips of a whole batch at once, on the device that holds it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


class Draw(NamedTuple):
    """The random part of an augmentation, one row per image."""

    offsets: Tensor
    """[B, 2] int64 row and column at which the crop starts in the padded image."""
    flips: Tensor
    """[B] bool."""
    vertical_flips: Tensor
    """[B] bool."""


@dataclass(frozen=True)
class CropFlip:
    """Pad by ``padding`` pixels, take a random crop of the old size, and mirror every second image in either direction."""

    padding: int
    padding_mode: Literal["zeros", "reflect"]
    flip: bool
    vertical_flip: bool = False

    def draw(self, count: int, generator: Generator) -> Draw:
        """Draw for ``count`` images on the CPU, so that every device augments alike."""
        offsets = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        vertical_flips = torch.rand(count, generator=generator) < (0.5 if self.vertical_flip else 0.0)
        return Draw(offsets, flips, vertical_flips)

    def __call__(self, images: Tensor, draw: Draw) -> Tensor:
        """[B, C, H, W] float -> the same shape; row i is cropped and flipped as row i of ``draw`` says."""
        offsets, flips, vertical_flips = (part.to(images.device, non_blocking=True) for part in draw)
        if self.padding:
            height, width = images.shape[-2:]
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            padded = F.pad(images, (self.padding,) * 4, mode=mode)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, C, row offsets, column offsets, H, W]
            rows = torch.arange(len(images), device=images.device)
            images = windows[rows, :, offsets[:, 0], offsets[:, 1]]
        if self.flip:
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        if self.vertical_flip:
            images = torch.where(vertical_flips[:, None, None, None], images.flip(-2), images)
        return images
