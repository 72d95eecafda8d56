"""The networks of a run as they are exported: the model with its weights in place, its masks and its description."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.checkpoint_content import check_networks
from dist_sparse.config.schema import ModelConfig
from dist_sparse.data.images.resizing import resizing_of
from dist_sparse.errors import UserError, one_line
from dist_sparse.export.description import Description
from dist_sparse.models import build_model, creation_arguments
from dist_sparse.networks import StoredNetwork, networks_of
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.stored import load_weights, read_checkpoint, step_of

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A network to export. Its inactive weights are 0, without a sign."""

    model: nn.Module
    """On the CPU, in evaluation mode."""
    masks: Mapping[str, Tensor]
    """Bool, of the masked layers, by the names of their weights."""
    about: Description

    def images(self, batch: int) -> Tensor:
        """As :func:`random_images`."""
        return random_images(self.about, batch)


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The networks that a checkpoint holds, before a model is built of them."""

    path: Path
    run: str
    state: Mapping[str, Any]
    stored: Mapping[int, StoredNetwork]
    """By number, from 1 on."""

    def source(self, number: int) -> Source:
        """One of them.

        Raises:
            UserError: its model cannot be built, or the weights do not fit.
        """
        network = self.stored[number]
        masks = {name: bits.unpack(packed, network.weights[name].shape) for name, packed in network.masks.items()}
        # A negative weight times a mask of 0 is -0.0.
        weights = {name: torch.where(masks[name], each, 0) if name in masks else each for name, each in network.weights.items()}
        about = self._describe(number, masks)
        model = build(about)
        load_weights(model, weights, self.path)
        return Source(model=model, masks=masks, about=about)

    def sources(self) -> Iterator[Source]:
        """All of them, each built when its turn comes."""
        yield from map(self.source, self.stored)

    def _describe(self, number: int, masks: Mapping[str, Tensor]) -> Description:
        data, config = self.state["data"], self.state["config"]
        each = "ast.structures" in METHODS[config["sparsity.method"]].uses and config.get("sparsity.ast.structures")
        structure = str(each[number - 1] if each else config.get("sparsity.structure", ""))
        active = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
        numel = sum(mask.numel() for mask in masks.values())
        kind, _, pattern = structure.partition(":")
        facts = {
            "model": config.get("model.name"),
            "model_kwargs": config.get("model.kwargs"),
            "classes": data.get("classes"),
            "class_names": [one_line(name) for name in data.get("class_names", ())] or None,
            "channels": data.get("channels"),
            "image_size": data.get("image_size"),
            "dtype": "float64" if config.get("train.precision") == "fp64" else "float32",
            "mean": config.get("data.mean"),
            "std": config.get("data.std"),
            **_resizing(config),
            "method": config["sparsity.method"],
            "structure": structure,
            "pattern": pattern if kind == "nm" else None,
            "density": sum(active.values()) / numel if numel else 1.0,
            "layers": active,
            "run": one_line(self.run),
            "subnet": self.stored[number].label or None,
            "step": step_of(self.state, self.path),
        }
        about = Description.from_values(facts, self.path)
        return replace(about, model_kwargs=_beside_channels(about))


def _beside_channels(about: Description) -> dict[str, Any]:
    """The model's arguments, with the images' size where :func:`build_model` adds it, which timm alone would not."""
    given = arguments(about)
    return {name: value for name, value in given.items() if name not in ("num_classes", "in_chans")}


def _resizing(config: Mapping[str, Any]) -> dict[str, Any]:
    resizing = resizing_of(config)
    return {
        "interpolation": resizing.interpolation,
        "crop_pct": resizing.crop_percentage,
        "crop_mode": resizing.crop_mode,
    }


def networks(path: Path, run: Path, subnet: str = "all", *, averaged: bool = False) -> Networks:
    """The chosen networks of the checkpoint at ``path``, which is one of the folder ``run``.

    Args:
        subnet: the number of one, or ``all``.
        averaged: with the averaged weights of a run with ``train.ema``.

    Raises:
        UserError: the checkpoint is not a sound one, or does not hold what is asked for.
    """
    state = read_checkpoint(path)
    check_networks(state, path)
    if averaged and state.get("state_dict_ema") is None:
        raise UserError(f"{path} holds no averaged weights: the run had no train.ema")
    stored = dict(enumerate(networks_of(state, averaged=averaged), start=1))
    chosen = {number: network for number, network in stored.items() if subnet in ("all", str(number))}
    if not chosen:
        raise UserError(f"--subnet={subnet}: {path} holds sub-nets 1 to {len(stored)}; give one of their numbers, or all")
    return Networks(path=path, run=run.resolve().name, state=state, stored=chosen)


def build(about: Description) -> nn.Module:
    """The described network in evaluation mode, whose weights are still to come.

    Raises:
        UserError: it cannot be built.
    """
    if about.dtype not in _DTYPES:
        raise UserError(f"weights of {about.dtype} are unknown to this version, which knows {', '.join(_DTYPES)}")
    config = ModelConfig(name=about.model, kwargs=about.model_kwargs)
    model = build_model(config, classes=about.classes, channels=about.channels, image_size=about.image_size, seed=0)
    return model.to(_DTYPES[about.dtype]).eval()


def arguments(about: Description) -> dict[str, Any]:
    """All that ``timm.create_model`` has to be told of a described network beside its name."""
    config = ModelConfig(name=about.model, kwargs=about.model_kwargs)
    return creation_arguments(config, classes=about.classes, channels=about.channels, image_size=about.image_size)


def random_images(about: Description, batch: int) -> Tensor:
    """Images [batch, C, H, W] as a described network takes them, the same at every call."""
    generator = torch.Generator().manual_seed(batch)
    images = torch.randn(batch, about.channels, about.image_size, about.image_size, generator=generator)
    return images.to(_DTYPES[about.dtype])
