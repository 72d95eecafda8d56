"""Networks to export without a run: any module, with masks of its choice."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.export.description import Description
from dist_sparse.export.source import Source, build

ABOUT = Description(
    model="resnet18",
    model_kwargs={"channels": [8] * 4, "layers": [1] * 4, "stem_width": 8, "zero_init_last": False},
    classes=3,
    class_names=["cat", "dog", "café"],
    channels=1,
    image_size=32,
    dtype="float32",
    mean=[0.5],
    std=[0.25],
    method="static",
    structure="unstructured",
    pattern=None,
    density=1.0,
    layers={},
    run="some run",
    subnet=None,
    step=7,
)


def source_of(module: nn.Module | None = None, masks: Mapping[str, Tensor] | None = None, **facts: Any) -> Source:
    """A network that is described by :data:`ABOUT` and ``facts``; without a ``module`` that of the description, untrained."""
    masks, about = masks or {}, replace(ABOUT, **facts)
    model = build(about) if module is None else module.eval()
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].data = torch.where(mask, parameters[name].data, 0)
    active = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
    density = sum(active.values()) / max(1, sum(mask.numel() for mask in masks.values())) if masks else 1.0
    return Source(model=model, masks=masks, about=replace(about, layers=active, density=density))


def masked(density: float = 0.2, **facts: Any) -> Source:
    """The small ResNet with random masks on its convolutions, and an active weight of 0."""
    source, generator = source_of(**facts), torch.Generator().manual_seed(0)
    weights = {name: each for name, each in source.model.named_parameters() if each.dim() == 4}
    masks = {name: torch.rand(each.shape, generator=generator) < density for name, each in weights.items()}
    masks["conv1.weight"][0, 0, 0, 0] = True
    weights["conv1.weight"].data[0, 0, 0, 0] = 0
    return source_of(source.model, masks, **facts)
