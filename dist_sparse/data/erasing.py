"""Random erasing of normalised images on the device that holds them, by timm."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from dist_sparse.config.data import DataConfig
from dist_sparse.data.order import Key
from dist_sparse.seeding import derive_seed, seeded


class Erasing:
    """timm's RandomErasing. What is drawn for an image depends on the seed and its key only.

    The noise that fills a rectangle is drawn on the images' device: the same on every GPU, but another one than on the CPU.
    """

    def __init__(self, probability: float, mode: Literal["const", "rand", "pixel"], count: int, seed: int) -> None:
        self._probability, self._mode, self._count, self._seed = probability, mode, count, seed

    def __call__(self, images: Tensor, keys: Sequence[Key]) -> None:
        """Erase within ``images`` ([B, C, H, W], normalised) in place; ``keys`` are their keys."""
        from timm.data.random_erasing import RandomErasing

        erase = RandomErasing(self._probability, mode=self._mode, max_count=self._count, device=str(images.device))
        with seeded(images.device) as seed:
            for image, key in zip(images, keys, strict=True):
                seed(derive_seed(*key.purpose("erasing", self._seed)))
                erase(image)


def erasing_of(config: DataConfig, seed: int) -> Erasing | None:
    """What the configuration asks for; None where it is nothing."""
    if not config.augment or not config.random_erasing:
        return None
    return Erasing(config.random_erasing, config.random_erasing_mode, config.random_erasing_count, seed)
