"""Exported files as networks again: ``dist_sparse.load``."""

import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dist_sparse import bitmask
from dist_sparse.errors import UserError
from dist_sparse.execution.build import build_to_infer
from dist_sparse.execution.execution import Execution
from dist_sparse.export.description import Description
from dist_sparse.export.layout import Layout, read_tensors
from dist_sparse.export.source import Source, build
from dist_sparse.inputs import expand
from dist_sparse.shrinking import is_shrunk, read_shrunk
from dist_sparse.sparsity.masks import Masks
from dist_sparse.stored import load_weights

_BATCH = 2
"""Images that a forward pass is watched with."""


def load(path: str | os.PathLike[str], compute: Literal["dense", "sparse"] = "dense") -> nn.Module:
    """The network that ``python -m dist_sparse.export`` has written as ``sparse``, ``safetensors`` or ``shrunk``.

    It is timm's model in evaluation mode, bit for bit the one that was exported. Its ``pretrained_cfg`` tells the images' size,
    resizing and normalisation, and the classes as ``label_names``, so that ``timm.data.resolve_model_data_config`` knows them.

    Args:
        compute: ``sparse`` multiplies by active weights alone wherever a layer can, faster or not. It is for inference, and not
            for a shrunk network, which is dense.

    Raises:
        UserError: a ValueError of one line: the file is not sound, or no layer can be computed sparsely here.
    """
    if compute not in ("dense", "sparse"):
        raise UserError(f"compute={compute!r}: should be dense or sparse")
    if is_shrunk(expand(path)):
        if compute == "sparse":
            raise UserError(f"compute='sparse': {path} holds a dense network, which was shrunk; compute='dense' takes it")
        return read_smaller(expand(path))[0]
    source = read_source(expand(path))
    if compute == "sparse" and (execution := compute_sparsely(source.model, source)).current is None:
        raise UserError(f"compute='sparse': {execution.reason}; compute='dense' takes it")
    return source.model


def read_source(path: Path) -> Source:
    """The network of such a file as it was exported. Masks of a dense file are where weights are not 0.

    Raises:
        UserError: the file is not sound.
    """
    tensors, about, layout = read_tensors(path)
    model = build(about)
    masks, shapes = {}, {name: each.shape for name, each in model.state_dict().items()}
    if unknown := about.layers.keys() - shapes:
        raise UserError(f"{path}: '{min(unknown)}' is no weight of {about.model}")
    for name in about.layers:
        try:
            tensors[name], masks[name] = _weight(name, tensors, shapes[name], layout)
        except (ValueError, KeyError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path}: damaged: {reason}") from None
    load_weights(model, tensors, path)
    model.pretrained_cfg = _configuration(model, about)  # pyright: ignore[reportArgumentType]
    return Source(model=model, masks=masks, about=about)


def read_smaller(path: Path) -> tuple[nn.Module, Description]:
    """A shrunk network, and what is said of the network that it was made of.

    Raises:
        UserError: the file is not sound.
    """
    loaded = read_shrunk(path)
    about = Description.from_values(loaded.about, path)
    loaded.model.pretrained_cfg = _configuration(loaded.model, about)  # pyright: ignore[reportArgumentType]
    return loaded.model, about


def compute_sparsely(model: nn.Module, source: Source) -> Execution:
    """Let a ``model`` with the weights of a source multiply by its active weights alone; the result says why it does not."""
    masks = Masks({name: each.detach() for name, each in model.named_parameters() if name in source.masks})
    masks.replace(source.masks)
    return build_to_infer(model, masks, source.images(_BATCH))


def _weight(name: str, tensors: dict[str, Tensor], shape: torch.Size, layout: Layout) -> tuple[Tensor, Tensor]:
    if layout is Layout.BITMASK:
        return bitmask.decompress(name, tensors.pop, shape)
    return tensors[name], tensors[name] != 0


def _configuration(model: nn.Module, about: Description) -> dict[str, object]:
    """timm's description of what the network's weights are for."""
    of_test = ("test_input_size", "test_crop_pct")  # of the name's own weights
    known = {key: value for key, value in (getattr(model, "pretrained_cfg", None) or {}).items() if key not in of_test}
    unresized = about.crop_pct is None and about.mean is not None  # a small set's images
    size = (about.channels, about.image_size, about.image_size)
    mine = {"num_classes": about.classes, "input_size": size, "mean": about.mean, "std": about.std}
    mine |= {
        "interpolation": about.interpolation,
        "crop_pct": 1.0 if unresized else about.crop_pct,
        "crop_mode": about.crop_mode,
    }
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in mine.items() if value is not None}
    names = {} if about.class_names is None else {"label_names": tuple(about.class_names)}
    return {**known, **given, **names}
