"""What timm knows of pretrained weights without fetching them: whether there are any, and what images they were made with."""

from typing import Any, NamedTuple

import timm
from torch import nn

from dist_sparse.config.schema import ModelConfig
from dist_sparse.errors import UserError

_SOURCES = ("state_dict", "file", "url", "hf_hub_id")
"""Where timm's description of a network may say that its weights are."""


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


def check_pretrained(config: ModelConfig, model: nn.Module) -> None:
    """Refuse with a UserError pretrained weights of which timm does not know, for a network that was built without them."""
    known = getattr(model, "pretrained_cfg", None)
    if config.pretrained and isinstance(known, dict) and not any(known.get(source) for source in _SOURCES):
        raise UserError(f"model.pretrained: no weights for {config.name}: timm has none; model.pretrained=false begins anew")
