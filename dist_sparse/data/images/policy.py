"""Automatic augmentation and colour jitter of cropped images, by timm and torchvision, as in timm's train.py."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dist_sparse.config.augmentation import replaces_jitter
from dist_sparse.data.images.windows import Interpolation
from dist_sparse.data.order import Key
from dist_sparse.seeding import derive_seed, seeded

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Policy:
    """What it draws for a view depends on the seed and the view's key only."""

    def __init__(
        self, words: str | None, color_jitter: float, *, mean: tuple[float, ...], interpolation: Interpolation, seed: int
    ) -> None:
        self._words, self._jitter, self._seed = words, color_jitter, seed
        self._fill = tuple(min(255, round(255 * value)) for value in mean)
        self._resampling = RESAMPLING.get(interpolation)
        self._made: dict[int, list[Callable[[Image.Image], Image.Image]]] = {}
        """The transforms by the images' side."""

    def __call__(self, image: Image.Image, key: Key) -> Image.Image:
        """A square image -> one of the same size."""
        transforms = self._made.get(image.width)
        if transforms is None:
            transforms = self._made[image.width] = self._make(image.width)
        with seeded() as seed:
            seed(derive_seed(*key.purpose("policy", self._seed)))
            for transform in transforms:
                image = transform(image)
        return image

    def of_batch(self, images: Tensor, keys: list[Key]) -> Tensor:
        """uint8 [B, 3, H, W] on the CPU -> the same, in the same memory format."""
        result = torch.empty_like(images)
        rows = images.permute(0, 2, 3, 1), result.permute(0, 2, 3, 1)
        for image, target, key in zip(*rows, keys, strict=True):
            changed = self(Image.fromarray(image.contiguous().numpy()), key)
            target.copy_(torch.frombuffer(bytearray(changed.tobytes()), dtype=torch.uint8).view_as(target))
        return result

    def _make(self, side: int) -> list[Callable[[Image.Image], Image.Image]]:
        made = [] if self._words is None else [self._automatic(self._words, side)]
        if self._jitter and not replaces_jitter(self._words):
            from torchvision.transforms import ColorJitter

            made.append(ColorJitter(*(self._jitter,) * 3))
        return made

    def _automatic(self, words: str, side: int) -> Callable[[Image.Image], Image.Image]:
        """As timm's ``create_transform`` sets it up; TrivialAugmentWide as torchvision's references do."""
        from timm.data import auto_augment as timms

        if words == "trivial":
            from torchvision.transforms import InterpolationMode, TrivialAugmentWide

            cubic = self._resampling == Image.Resampling.BICUBIC
            return TrivialAugmentWide(interpolation=InterpolationMode.BICUBIC if cubic else InterpolationMode.BILINEAR)
        parameters: dict[str, Any] = {"translate_const": int(side * 0.45), "img_mean": self._fill}
        if self._resampling is not None:
            parameters["interpolation"] = self._resampling
        if words.startswith("rand"):
            policy = timms.rand_augment_transform(words, parameters)
            operations = policy.ops
        elif words.startswith("augmix"):
            policy = timms.augment_and_mix_transform(words, {**parameters, "translate_pct": 0.3})
            operations = policy.ops
        else:
            policy = timms.auto_augment_transform(words, parameters)
            operations = [operation for each in policy.policy for operation in each]
        for operation in operations:
            if operation.aug_fn is timms.posterize:
                operation.aug_fn = _posterize
        return policy


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """timm's policies also ask for 0 bits, at the end of the scale. That is black, but Pillow has come to refuse it."""
    from timm.data import auto_augment as timms

    return timms.posterize(image, bits) if bits else Image.new(image.mode, image.size)
