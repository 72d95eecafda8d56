"""The weights and masks that a run starts from where ``model.checkpoint`` names a file."""

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import timm
import torch
from torch import Size, Tensor, nn

from dist_sparse.config.schema import ModelConfig
from dist_sparse.errors import UserError
from dist_sparse.start_file import read_start
from dist_sparse.stored import first_of, misfits_of

_log = logging.getLogger(__name__)


def start_from(config: ModelConfig, model: nn.Module) -> None:
    """Give a model, still on the CPU, the weights of ``config.checkpoint``; a classifier of another size keeps its own.

    Raises:
        UserError: no such file, not one of weights, or those of another network.
    """
    assert config.checkpoint is not None
    expected = model.state_dict()
    file = read_start(config.checkpoint, _shapes_of(expected))
    weights = _filtered(config, model, file.weights)
    _renew_classifier(model, weights, file.source)
    # Torch's own way with files from before batch norms counted their batches.
    weights = {**{name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}, **weights}
    if misfits := misfits_of(weights, expected):
        raise UserError(f"{file.source} does not fit {config.name}: {'; '.join(misfits)}")
    if bad := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"{file.source}: not all values are finite in {first_of(bad)}")
    model.load_state_dict(weights)


def masks_to_start_from(config: ModelConfig, model: nn.Module, layers: Iterable[str]) -> dict[str, Tensor]:
    """The masks of some layers in the file that ``config.checkpoint`` names: all ones where it has none.

    A file that does not tell them, because another program wrote it, tells them by its zeros. The model may be on the meta
    device.

    Raises:
        UserError: as :func:`start_from`; no layer has a mask, or one is of another shape than the layer.
    """
    assert config.checkpoint is not None
    expected = model.state_dict()
    file, names = read_start(config.checkpoint, _shapes_of(expected)), list(layers)
    masks = file.masks
    if masks is None:
        weights = _filtered(config, model, file.weights)
        masks = {name: weights[name] != 0 for name in names if name in weights}
    if all(bool(masks[name].all()) for name in names if name in masks):
        raise UserError(f"sparsity.init=checkpoint: {file.source} has no masks, or zeros, in the layers that get masks here")
    for name in names:
        if name in masks and masks[name].shape != expected[name].shape:
            raise UserError(
                f"sparsity.init=checkpoint: the mask of {name} in {file.source} is {_shape(masks[name])}, and the layer "
                f"{_shape(expected[name])}: with the name in sparsity.keep_dense it gets none"
            )
    if dropped := [name for name, mask in masks.items() if name not in names and not mask.all()]:
        _log.warning("%s: masks of layers that have none here are left out: %s", file.source, first_of(dropped))
    return {name: masks.get(name, torch.ones(expected[name].shape, dtype=torch.bool)) for name in names}


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


def _renew_classifier(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Where the classifier in the file is not as large as the model's, or is not there, the model keeps its own, all of it."""
    expected = model.state_dict()
    own = {name: expected[name] for name in sorted(_classifier(model))}
    other = [name for name, tensor in own.items() if name not in weights or weights[name].shape != tensor.shape]
    if other:
        told = ", ".join(
            f"{name} {_shape(weights[name]) if name in weights else 'is not'} there, {_shape(own[name])} here" for name in other
        )
        _log.warning("%s: the classifier begins anew: %s", source, told)
        weights |= own


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
