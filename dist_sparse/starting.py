"""The weights that a run starts from where ``model.checkpoint`` names a file: no code is run out of it."""

import argparse
import logging
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import clean_state_dict, load_state_dict
from torch import Tensor, nn

from dist_sparse import packed_state
from dist_sparse.checkpoint import CheckpointStore
from dist_sparse.config.schema import ModelConfig
from dist_sparse.errors import UserError
from dist_sparse.files import damaged_record
from dist_sparse.inputs import expand, is_folder, kind_of
from dist_sparse.networks import networks_of
from dist_sparse.run_folder import RunFolder
from dist_sparse.stored import first_of, misfits_of

_log = logging.getLogger(__name__)


def start_from(config: ModelConfig, model: nn.Module) -> None:
    """Give a model, still on the CPU, the weights of ``config.checkpoint``; a classifier of another size keeps its own.

    Raises:
        UserError: no such file, not one of weights, or those of another network.
    """
    assert config.checkpoint is not None
    path = _file(expand(config.checkpoint))
    weights = _filtered(config, model, _read(path))
    expected = model.state_dict()
    _renew_classifier(model, weights, path)
    # Torch's own way with files from before batch norms counted their batches.
    weights = {**{name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}, **weights}
    if misfits := misfits_of(weights, expected):
        raise UserError(f"model.checkpoint={path} does not fit {config.name}: {'; '.join(misfits)}")
    if bad := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"model.checkpoint={path}: not all values are finite in {first_of(bad)}")
    model.load_state_dict(weights)


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


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, without what DDP, torch.compile and training scripts put around them; averaged ones before others."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (record := damaged_record(archive)) is not None:
                    raise zipfile.BadZipFile(f"checksum of {record!r} does not match")
        weights: Any = load_state_dict(str(path), use_ema=True, device="cpu", weights_only=True)
    except Exception as error:  # whatever broken bytes, or objects that are no tensors, make the readers trip over
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"model.checkpoint={path}: not a sound file of weights: {reason}") from error
    weights = packed_state.unpack(clean_state_dict(weights))  # once more, for both wrappers in either order
    others = [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]
    if others or not weights:
        held = f"it holds {first_of(others)}" if others else "it is empty"
        raise UserError(
            f"model.checkpoint={path}: not a state dict, nor one under state_dict, model, state_dict_ema or model_ema: {held}"
        )
    return _of_a_run(path, weights)


def _of_a_run(path: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network that a checkpoint's run was for, if this program wrote it: of several sub-nets the last, with its norms."""
    if not zipfile.is_zipfile(path):
        return weights
    with torch.serialization.safe_globals([argparse.Namespace]):  # as timm reads files of its own training script
        state: Any = torch.load(path, mmap=True, map_location="cpu", weights_only=True)
    if not {"method", "progress", "config", "state_dict"} <= state.keys():
        return weights
    state = CheckpointStore.load(path)
    return networks_of(state, averaged=state["state_dict_ema"] is not None)[-1].weights


def _filtered(config: ModelConfig, model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What timm makes of other publishers' names, and of positions of another image size, where the network has such a rule."""
    expected, classifier = model.state_dict(), _classifier(model)

    def misfits(weights: Mapping[str, Tensor]) -> int:
        differing = expected.keys() ^ weights.keys()
        differing |= {name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape}
        return len(differing - classifier)

    rule = getattr(sys.modules[timm.model_entrypoint(config.name).__module__], "checkpoint_filter_fn", None)
    if rule is None or not misfits(weights):
        return weights
    try:
        filtered = rule(dict(weights), model)
    except Exception:  # these are not the weights that the rule is for
        return weights
    return dict(filtered) if misfits(filtered) < misfits(weights) else weights


def _classifier(model: nn.Module) -> set[str]:
    """The names of the classifier's tensors."""
    get: Any = getattr(model, "get_classifier", None)
    heads = get() if get else []
    heads = heads if isinstance(heads, tuple | list) else [heads]
    return {
        f"{name}.{tensor}"
        for name, module in model.named_modules()
        if any(module is head for head in heads)
        for tensor in module.state_dict()
    }


def _renew_classifier(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Where the classifier in the file is not as large as the model's, or is not there, the model keeps its own, all of it."""
    expected = model.state_dict()
    own = {name: expected[name] for name in sorted(_classifier(model))}
    other = [name for name, tensor in own.items() if name not in weights or weights[name].shape != tensor.shape]
    if other:
        told = ", ".join(
            f"{name} {_shape(weights[name]) if name in weights else 'is not'} there, {_shape(own[name])} here" for name in other
        )
        _log.warning("model.checkpoint=%s: the classifier begins anew: %s", path, told)
        weights |= own


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
