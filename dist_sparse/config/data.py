"""The section `data` of a configuration: the data set, how it is read and augmented."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dist_sparse.config.augmentation import AutoAugment
from dist_sparse.config.duration import Duration, Length
from dist_sparse.config.numbers import STRICT, Count, Density, Fraction, Natural, NonNegative, Positive
from dist_sparse.config.paths import AnyPath

Side = Annotated[int, Field(ge=1, le=2048)]
"""The side of an image in pixels."""


@dataclass(frozen=True, kw_only=True)
class ForgettingConfig:
    __pydantic_config__ = STRICT

    epochs: Natural = 0
    """Epochs on all samples, over which forgetting events are counted. Their ranking is saved in the run's folder."""
    remove: Natural = 0
    """How many of the least forgotten samples are left out from then on. Schedules stay where they are in epochs."""
    ranking: AnyPath | None = None
    """Ranking of an earlier run (its folder's `forgetting.pt`) to go by instead of counting."""


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig:
    __pydantic_config__ = STRICT

    start_size: Side | None = None
    """Side of the training images in pixels at the start of the run; it grows to `data.image_size`. Off by default."""
    start: Duration = Length(0.7, "run")
    """When the side begins to grow. Default: as in FFCV's public ResNet-50 recipes, about 70 % of the run."""
    end: Duration = Length(0.85, "run")
    """When it has reached `data.image_size`. The side changes between epochs only. Default: about as in those recipes."""
    multiple: Count = 32
    """Sides on the way are rounded to a multiple of this. Default: the stride of most networks."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    __pydantic_config__ = STRICT

    name: str = "digits"
    """Data set: digits, mnist, fashion_mnist, cifar10, cifar100, tiny_imagenet, image_folder, or noise (random images, for
    trials)."""
    root: AnyPath = "data"
    """Folder that holds the data sets."""
    limit: Count | None = None
    """Use only so many of the training images, spread over the set, and at most as many to validate. Default: all."""
    download: bool = False
    """Fetch a missing small set into `data.root`, where the network allows."""
    augment: bool = True
    """Augment training images (random crop and, where it makes sense, flip)."""
    crop_padding: Natural | None = None
    """Pixels of padding before a small set's random crop. Default: digits 1, mnist and fashion_mnist 2, CIFAR 4,
    tiny_imagenet 8."""
    padding_mode: Literal["zeros", "reflect"] | None = None
    """How a small set's padding is filled. Default: zeros."""
    mean: list[Fraction] | None = None
    """Mean of each channel that is taken from the pixels, scaled to 0-1. Default: that which `model.pretrained` weights expect
    (with folders, `model.checkpoint` too: what timm's weights of that name expect), else a small set's own, ImageNet's."""
    std: list[Positive] | None = None
    """Deviation of each channel that the pixels are divided by then. Default: as of `data.mean`."""
    flip: bool | None = None
    """Random horizontal flips. Default: yes, except for digits and mnist."""
    vertical_flip: bool = False
    """Random vertical flips, of every second image (timm's `--vflip 0.5`)."""
    auto_augment: AutoAugment | None = None
    """Augmentation policy in timm's words (image_folder): rand-m9-mstd0.5-inc1, augmix-m5-w4-d2, original, originalr, v0, v0r,
    3a (DeiT III's three-augment), or trivial (torchvision's TrivialAugmentWide). Off by default."""
    color_jitter: NonNegative = 0.0
    """Range of random changes of brightness, contrast and saturation (image_folder; timm's `--color-jitter`, there 0.4).
    Policies of `data.auto_augment` take its place, except for 3a, as in timm."""
    random_erasing: Fraction = 0.0
    """Probability that a rectangle of a training image is erased (timm's `--reprob`)."""
    random_erasing_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What it is filled with: zeros, one random colour, or a random colour for each pixel (timm's `--remode`)."""
    random_erasing_count: Count = 1
    """At most so many rectangles; together they are as large as one (timm's `--recount`)."""
    repeated_augment: Count = 1
    """How often an epoch shows each of its images, differently augmented, as DeiT does with 3 (timm's `--aug-repeats`).
    The epoch keeps its number of steps, so it shows that many times fewer images."""
    image_size: Side | None = None
    """Side of the images in pixels. Small sets are zero-padded up to it; folders are cropped to it (default 224)."""
    eval_size: Side | None = None
    """Side of validation images in pixels, at which FLOPs are counted too (image_folder). Default: `data.image_size`."""
    resize: Count | None = None
    """Shorter side in pixels before the centre crop of validation images (image_folder). Default: by the crop percentage that
    the weights expect which the run starts from, else 8/7 of the crop (256)."""
    crop_mode: Literal["center", "border", "squash"] | None = None
    """What of a validation image is resized to `data.resize` before the centre crop (image_folder): its shorter side; its
    longer one, with a border of the mean colour; or both (squash). Default: as of `data.interpolation`, or center."""
    interpolation: Literal["bilinear", "bicubic", "random"] | None = None
    """How images are resized (image_folder); random is one of the two for each training image (timm's `--train-interpolation`).
    Default: as the weights expect that the run starts from, else bilinear."""
    eval_interpolation: Literal["bilinear", "bicubic"] | None = None
    """How validation images are resized (image_folder). Default: `data.interpolation`, unless that is random."""
    min_scale: Density = 0.08
    """Smallest area, as a fraction of the image, that a random resized crop may take (image_folder)."""
    backend: Literal["auto", "dali", "torchvision"] = "auto"
    """What decodes and resizes images (image_folder); auto takes NVIDIA DALI where it is installed."""
    workers: Natural = 4
    """Torchvision's loader processes (0: none) or DALI's threads (at least 1), per rank and split (image_folder)."""
    bad_images: Literal["stop", "skip"] = "stop"
    """What a corrupt file does: end the run, or be replaced by its neighbour, in validation left out (image_folder)."""
    progressive: ProgressiveConfig = ProgressiveConfig()
    """Smaller training images in the first epochs (image_folder)."""
    forgetting: ForgettingConfig = ForgettingConfig()
    """Data-efficient training: leave out what is not forgotten."""


USUAL_FOR_FOLDERS = {
    key: getattr(DataConfig(), key)
    for key in (
        *("resize", "eval_size", "min_scale", "backend", "bad_images", "progressive"),
        *("auto_augment", "color_jitter", "crop_mode", "interpolation", "eval_interpolation"),
    )
}
"""Defaults of the keys that are for folders of images only."""
