"""How images of files are resized: by the keys, else as pretrained weights expect, else as ever."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data import create_transform
from torchvision.transforms.functional import to_pil_image

from dist_sparse.build import resolved
from dist_sparse.checkpoint import decisive_changes
from dist_sparse.config import Config, load_config, to_flat, with_values
from dist_sparse.config.data import DataConfig
from dist_sparse.data import Data
from dist_sparse.data.images.resizing import RESIZING_KEYS, as_it_was, eval_interpolation, resizing_of
from dist_sparse.data.readers import SMALL_SETS

VIT = {"model.name": "vit_tiny_patch16_224", "model.pretrained": True}
"""Weights that expect bicubic interpolation and nine tenths of the resized side."""
OPEN = (None, None, None, None)


def resizing(values: dict[str, Any]) -> tuple[Any, ...]:
    config = resolved(with_values(Config(), {"data.name": "image_folder", "sparsity.method": "dense", **values}))
    assert resolved(config) == config
    return tuple(getattr(config.data, key) for key in RESIZING_KEYS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model.name": "vit_tiny_patch16_224"}, OPEN),
        (VIT, ("bicubic", "bicubic", "center", 248)),
        ({"model.name": "vit_tiny_patch16_224", "model.checkpoint": "weights.pt"}, ("bicubic", "bicubic", "center", 248)),
        ({"model.name": "cifar_resnet20", "model.checkpoint": "weights.pt"}, OPEN),
        ({"model.name": "resnet50", "model.pretrained": True}, ("bicubic", "bicubic", "center", 235)),
        ({**VIT, "data.eval_size": 288}, ("bicubic", "bicubic", "center", 320)),
        ({**VIT, "data.resize": 224, "data.crop_mode": "squash"}, ("bicubic", "bicubic", "squash", 224)),
        ({**VIT, "data.interpolation": "random"}, ("random", "bicubic", "center", 248)),
        ({**VIT, "data.interpolation": "bilinear"}, ("bilinear", None, "center", 248)),
        ({**VIT, "data.eval_interpolation": "bilinear"}, ("bicubic", "bilinear", "center", 248)),
        ({**VIT, "data.name": "cifar10"}, OPEN),
        (
            {
                **VIT,
                "model.kwargs": {
                    "pretrained_cfg_overlay": {"interpolation": "lanczos", "crop_pct": 1.0, "crop_mode": "border"}
                },
            },
            (None, None, "border", 224),
        ),
    ],
)
def test_what_pretrained_weights_expect_is_the_default(values, expected):
    assert resizing(values) == expected


@pytest.mark.parametrize(
    ("keys", "filter_"),
    [
        ({}, "bilinear"),
        ({"interpolation": "bicubic"}, "bicubic"),
        ({"interpolation": "random"}, "bilinear"),
        ({"interpolation": "bicubic", "eval_interpolation": "bilinear"}, "bilinear"),
    ],
)
def test_validation_is_resized_as_training_unless_told(keys, filter_):
    assert eval_interpolation(DataConfig(name="image_folder", **keys)) == filter_


def test_a_run_of_before_the_keys_goes_on_as_it_was_or_not_at_all():
    """A checkpoint without the keys is of a run that was bilinear, to 8/7 of the crop, whatever its weights expected."""
    plain = with_values(Config(), {"data.name": "image_folder", "sparsity.method": "dense"})
    saved = {key: value for key, value in to_flat(plain).items() if key not in {f"data.{each}" for each in RESIZING_KEYS[:3]}}
    assert as_it_was(saved, plain.data) == saved
    told = {"interpolation": "bilinear", "eval_interpolation": "bilinear", "crop_mode": "center", "resize": 256}
    kept = replace(plain, data=replace(plain.data, **told))
    assert decisive_changes(as_it_was(saved, kept.data), to_flat(kept)) == []
    other = replace(plain, data=replace(plain.data, **{**told, "interpolation": "bicubic", "resize": 248}))
    assert decisive_changes(as_it_was(saved, other.data), to_flat(other)) == [
        "data.resize (was 256, now 248)",
        "data.interpolation (was 'bilinear', now 'bicubic')",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("bilinear", 224 / 256, "center")),
        ({"data.interpolation": "random", "data.eval_interpolation": "bicubic"}, ("bicubic", 224 / 256, "center")),
        ({"data.interpolation": "bicubic", "data.eval_size": 288, "data.resize": 300, "data.crop_mode": "squash"},
         ("bicubic", 288 / 300, "squash")),
    ],
)  # fmt: skip
def test_what_a_checkpoint_says_of_its_validation(values: dict[str, object], expected: tuple[str, float, str]) -> None:
    config = to_flat(load_config(None, {"data.name": "image_folder", "data.root": "data", **values}))
    assert resizing_of(config) == expected
    assert resizing_of({**config, "data.name": "digits"}) == (None, None, None)


@pytest.mark.parametrize("side", [13, 16])
def test_timm_pads_a_small_set_s_images_as_training_did(load: Callable[..., Data], side: int) -> None:
    padded = resizing_of({"data.name": "digits", "data.image_size": side})
    info = {"input_size": (1, side, side), "mean": (0.3058,), "std": (0.3761,)}
    transform: Any = create_transform(**info, crop_pct=padded.crop_percentage, crop_mode=padded.crop_mode)
    raw = SMALL_SETS["digits"].read(Path())[1].images
    (batch, *_) = load("digits", image_size=side, eval_batch_size=len(raw)).val
    torch.testing.assert_close(torch.stack([transform(to_pil_image(image)) for image in raw]), batch.images)


def test_timm_resizes_to_the_whole_side_however_the_share_rounds() -> None:
    for side in range(29, 512):
        share = resizing_of({"data.name": "mnist", "data.image_size": side}).crop_percentage or 0
        assert share == pytest.approx(side / 28) and math.floor(side / share) == 28
