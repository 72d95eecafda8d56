"""What timm knows of the images that pretrained weights were made with."""

from typing import Any, NamedTuple

import timm

from dist_sparse.config.schema import ModelConfig


class ExpectedImages(NamedTuple):
    """By channel, of pixels scaled to 0-1; and how images are resized."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    others: dict[str, Any]
    """``interpolation``, ``crop_pct`` and ``crop_mode``, as timm writes them; None where it does not say."""


def expected_images(config: ModelConfig) -> ExpectedImages | None:
    """The images that timm's weights of a network expect.

    None as well where timm does not say, or does not know the network: that is for the building of it to tell.
    """
    try:
        known: Any = timm.get_pretrained_cfg(config.name)
    except (RuntimeError, ValueError):
        return None
    if not config.pretrained and not getattr(known, "has_weights", False):
        return None
    given = config.kwargs.get("pretrained_cfg"), config.kwargs.get("pretrained_cfg_overlay")
    values = {key: getattr(known, key, None) for key in ("mean", "std", "interpolation", "crop_pct", "crop_mode")}
    for each in given:
        values |= {key: each[key] for key in values if isinstance(each, dict) and each.get(key)}
    mean, std = values.pop("mean"), values.pop("std")
    return ExpectedImages(tuple(mean), tuple(std), values) if mean and std else None
