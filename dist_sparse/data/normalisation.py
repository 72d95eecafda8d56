"""By which mean and deviation the pixels of a data set are normalised."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dist_sparse.config.data import DataConfig
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of pixels scaled to 0-1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        return f"mean {_list(self.mean)} and deviation {_list(self.std)}"


def usual(data: str) -> Normalisation:
    """A small set's own, and ImageNet's for folders of images."""
    if data in SMALL_SETS:
        return Normalisation(SMALL_SETS[data].mean, SMALL_SETS[data].std)
    return Normalisation(IMAGENET_MEAN, IMAGENET_STD)


def chosen(config: DataConfig, expected: Normalisation | None = None) -> Normalisation:
    """What the configuration says; what it leaves open is what weights ``expected``, if they do, and else the usual.

    Raises:
        UserError: not a value for each channel.
    """
    default = usual(config.name)
    channels = len(default.mean)
    if expected is not None and len(expected.mean) == channels:
        default = expected
    for key in ("mean", "std"):
        values: list[float] | None = getattr(config, key)
        if values is not None and len(values) != channels:
            raise UserError(f"data.{key}={values}: should be {channels} values, one for each channel of {config.name}")
    return Normalisation(tuple(config.mean or default.mean), tuple(config.std or default.std))


def check_kept(saved: Mapping[str, Any], config: DataConfig) -> None:
    """Refuse with a UserError to go on, from a checkpoint of before these keys, with other values than those it had.

    Args:
        saved: the checkpoint's configuration by dotted key.
        config: the present one, with both keys filled in.
    """
    had = usual(config.name)
    if "data.mean" not in saved and chosen(config) != had:
        keys = f"--data.mean={_list(had.mean)} --data.std={_list(had.std)}"
        raise UserError(f"data.mean, data.std: the checkpoint is of a version that had but {had}; {keys} goes on with them")


def _list(values: Sequence[float]) -> str:
    return "[" + ",".join(map(str, values)) + "]"
