"""How images of files are resized, where weights that a run starts from expect it in one way."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

from dist_sparse.config.data import DataConfig
from dist_sparse.data.images.sizes import DEFAULT_IMAGE_SIZE, RESIZE
from dist_sparse.data.readers import SMALL_SETS

Mode = Literal["center", "border", "squash"]
Filter = Literal["bilinear", "bicubic"]
RESIZING_KEYS = ("interpolation", "eval_interpolation", "crop_mode", "resize")
"""Keys whose default is what weights expect."""


class Resizing(NamedTuple):
    """What weights expect in validation; None where they do not say, or say what is not to be had here."""

    interpolation: Filter | None = None
    crop_percentage: float | None = None
    """The crop's side over the side that the image is resized to; above 1 the crop pads with zeros."""
    crop_mode: Mode | None = None


def resizing_from(values: Mapping[str, Any]) -> Resizing:
    """Those of timm's ``pretrained_cfg``."""
    filter_, mode, part = (values.get(key) for key in ("interpolation", "crop_mode", "crop_pct"))
    return Resizing(
        interpolation=filter_ if filter_ in get_args(Filter) else None,
        crop_percentage=float(part) if isinstance(part, int | float) and 0 < part <= 1 else None,
        crop_mode=mode if mode in get_args(Mode) else None,
    )


def resizing_of(saved: Mapping[str, Any]) -> Resizing:
    """What a checkpoint's configuration by dotted key says was done in validation: small sets are at most padded with zeros."""
    if (name := saved.get("data.name")) != "image_folder":
        side, padded = SMALL_SETS[name].side if name in SMALL_SETS else None, saved.get("data.image_size")
        return Resizing(None, _percentage(padded, side), "center") if side and padded and padded > side else Resizing()
    keys = ("image_size", "eval_size", "resize", "crop_mode", "interpolation", "eval_interpolation")
    values: dict[str, Any] = {key: saved.get(f"data.{key}") for key in keys}
    config = DataConfig(name="image_folder", **values)
    return Resizing(eval_interpolation(config), _percentage(_side(config), _resized(config)), config.crop_mode or "center")


def eval_interpolation(config: DataConfig) -> Filter:
    """How validation images are resized."""
    if config.eval_interpolation is not None:
        return config.eval_interpolation
    return "bilinear" if config.interpolation in (None, "random") else config.interpolation


def with_expected(config: DataConfig, expected: Resizing | None) -> DataConfig:
    """The configuration of an ``image_folder``, with what it leaves open as weights expect it, if they do."""
    if expected is None or config.name != "image_folder":
        return config
    usual = expected.interpolation
    evaluation = config.eval_interpolation or (usual if config.interpolation in (None, "random") else None)
    resize = config.resize
    if resize is None and expected.crop_percentage is not None:
        resize = math.floor(_side(config) / expected.crop_percentage)
    return replace(
        config,
        interpolation=config.interpolation or usual,
        eval_interpolation=evaluation,
        crop_mode=config.crop_mode or expected.crop_mode,
        resize=resize,
    )


def told(config: DataConfig) -> str:
    """How the validation images of an ``image_folder`` are resized, in words."""
    side, mode = _side(config), config.crop_mode or "center"
    return f"by {eval_interpolation(config)} interpolation to {_resized(config)} for a {mode} crop of {side} pixels"


def as_it_was(saved: Mapping[str, Any], config: DataConfig) -> Mapping[str, Any]:
    """A checkpoint's configuration by dotted key; of before these keys, with what was then done where ``config`` says it."""
    if "data.interpolation" in saved or config.name != "image_folder":
        return saved
    resize = saved.get("data.resize") or round(RESIZE * _side(config))
    had = {"interpolation": "bilinear", "eval_interpolation": "bilinear", "crop_mode": "center", "resize": resize}
    return {**saved, **{f"data.{key}": value for key, value in had.items() if getattr(config, key) is not None}}


def _percentage(crop: int, resized: int) -> float:
    """``crop / resized``, from which timm's ``floor(crop / percentage)`` gives ``resized`` again, however the two round."""
    exact = crop / resized
    return exact if math.floor(crop / exact) == resized else math.nextafter(exact, 0)


def _resized(config: DataConfig) -> int:
    return config.resize or round(RESIZE * _side(config))


def _side(config: DataConfig) -> int:
    return config.eval_size or config.image_size or DEFAULT_IMAGE_SIZE
