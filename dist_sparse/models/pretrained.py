"""What timm knows of the images that pretrained weights were made with."""

from typing import Any

import timm

from dist_sparse.config.schema import ModelConfig


def expected_pixels(config: ModelConfig) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation, by channel, of the images that timm's weights of a network expect.

    None as well where timm does not say, or does not know the network: that is for the building of it to tell.
    """
    try:
        known: Any = timm.get_pretrained_cfg(config.name)
    except (RuntimeError, ValueError):
        return None
    if not config.pretrained and not getattr(known, "has_weights", False):
        return None
    given = config.kwargs.get("pretrained_cfg"), config.kwargs.get("pretrained_cfg_overlay")
    values = {key: getattr(known, key, None) for key in ("mean", "std")}
    for each in given:
        values |= {key: each[key] for key in values if isinstance(each, dict) and each.get(key)}
    if not values["mean"] or not values["std"]:
        return None
    return tuple(values["mean"]), tuple(values["std"])
