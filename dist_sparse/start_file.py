"""What ``model.checkpoint`` names, read: weights and masks by name. No code is run out of it."""

import argparse
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models import clean_state_dict, load_state_dict, load_state_dict_from_hf
from torch import Size, Tensor

from dist_sparse import bitmask, packed_state, tensor_file
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.errors import UserError
from dist_sparse.files import damaged_record
from dist_sparse.inputs import expand, is_folder, kind_of
from dist_sparse.networks import networks_of
from dist_sparse.run_folder import RunFolder
from dist_sparse.sparsity import bits
from dist_sparse.stored import first_of

HUB = "hf-hub:"
"""How a name on Hugging Face's hub begins."""


@dataclass(frozen=True, kw_only=True)
class StartFile:
    """Weights for a model's ``load_state_dict``, and their masks."""

    source: str
    """How messages call it."""
    weights: dict[str, Tensor]
    masks: dict[str, Tensor] | None = None
    """Bool, by the names of weights, where the file tells them."""


def read_start(checkpoint: str, shapes: Mapping[str, Size]) -> StartFile:
    """Read the file, the run's best checkpoint or the repository of Hugging Face's hub that ``model.checkpoint`` is.

    Args:
        shapes: of the model's tensors, which this program's ``sparse`` files do not tell.

    Raises:
        UserError: there is no such file, or it is not one of weights.
    """
    if checkpoint.startswith(HUB):
        return StartFile(source=f"model.checkpoint={checkpoint}", weights=_fetched(checkpoint))
    path = _file(expand(checkpoint))
    source = f"model.checkpoint={path}"
    if tensor_file.read_texts(path).get(bitmask.LAYOUT_KEY) == bitmask.LAYOUT:
        weights, masks = _unpacked(path, shapes)
        return StartFile(source=source, weights=weights, masks=masks)
    weights = _read(path)
    if (state := _state_of_a_run(path)) is None:
        return StartFile(source=source, weights=weights)
    # Of several sub-nets the last, which the run is for, with its norms.
    network = networks_of(state, averaged=state["state_dict_ema"] is not None)[-1]
    masks = {name: bits.unpack(packed, network.weights[name].shape) for name, packed in network.masks.items()}
    return StartFile(source=source, weights=network.weights, masks=masks)


def _file(path: Path) -> Path:
    """The file; of a run's folder its best checkpoint."""
    if is_folder(path):
        try:
            return RunFolder(path=path).checkpoint("best")
        except UserError as error:
            raise UserError(f"model.checkpoint={path}: neither a file of weights nor the folder of a run: {error}") from error
    try:
        kind = kind_of(path)
    except (OSError, ValueError):
        raise UserError(f"model.checkpoint={path}: no such file") from None
    if kind is not None:
        raise UserError(f"model.checkpoint={path}: is {kind}, not a file of weights")
    return path


def _fetched(checkpoint: str) -> dict[str, Tensor]:
    """The weights in a repository of Hugging Face's hub, from its cache where they are there already."""
    try:
        weights = load_state_dict_from_hf(checkpoint.removeprefix(HUB), weights_only=True)
    except Exception as error:  # of the network, of the hub, of its cache or of the file
        raise UserError(f"model.checkpoint={checkpoint}: cannot be fetched: {_reason(error)}") from error
    return _tensors(f"model.checkpoint={checkpoint}", clean_state_dict(weights))


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without what DDP, torch.compile and training scripts put around them; averaged ones before others."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (record := damaged_record(archive)) is not None:
                    raise zipfile.BadZipFile(f"checksum of {record!r} does not match")
        weights: Any = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except Exception as error:  # whatever broken bytes, or objects that are no tensors, make the readers trip over
        raise UserError(f"model.checkpoint={path}: not a sound file of weights: {_reason(error)}") from error
    # Cleaned once more, for both wrappers in either order.
    return _tensors(f"model.checkpoint={path}", packed_state.unpack(clean_state_dict(weights)))


def _tensors(source: str, weights: dict[str, Any]) -> dict[str, Tensor]:
    """The weights, if they are nothing else."""
    others = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        held = f"it holds {first_of(others)}" if others else "it is empty"
        raise UserError(f"{source}: not a state dict, nor one under state_dict, model, state_dict_ema or model_ema: {held}")
    return weights


def _state_of_a_run(path: Path) -> dict[str, Any] | None:
    """A checkpoint that this program wrote."""
    if not zipfile.is_zipfile(path):
        return None
    with torch.serialization.safe_globals([argparse.Namespace]):  # as timm reads files of its own training script
        state: Any = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    if not {"method", "progress", "config", "state_dict"} <= state.keys():
        return None
    return CheckpointStore.load(path)


def _unpacked(path: Path, shapes: Mapping[str, Size]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights and masks of a file that this program exported as ``sparse``."""
    try:
        weights, _ = tensor_file.read_tensors(path)
    except UserError as error:
        raise UserError(f"model.checkpoint={error}") from error
    masks: dict[str, Tensor] = {}
    for name in bitmask.layers_in(weights):
        if name not in shapes:
            raise UserError(f"model.checkpoint={path} does not fit the model, which has no {name}")
        try:
            weights[name], masks[name] = bitmask.decompress(name, weights.pop, shapes[name])
        except (ValueError, KeyError) as error:
            raise UserError(f"model.checkpoint={path} does not fit the model: {_reason(error)}") from error
    return weights, masks


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
