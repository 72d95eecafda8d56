"""Which parameters of a model get a mask."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import cast

from timm.layers import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import nn

_MASKABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_STANDARDISING = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)


def weight_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of all convolutions and linear layers by parameter name, in the model's order; a shared weight once."""
    layers: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, _MASKABLE) and id(module.weight) not in seen:
            seen.add(id(module.weight))
            layers[f"{name}.weight" if name else "weight"] = cast(nn.Parameter, module.weight)
    return layers


def sparse_layers(model: nn.Module, keep_dense: Sequence[str]) -> dict[str, nn.Parameter]:
    """The :func:`weight_layers` that no entry of ``keep_dense`` names.

    An entry is a name pattern with shell wildcards, or ``first`` or ``last`` for the first or last weight layer of the model.

    Raises:
        ValueError: an entry fits no layer (most likely a misspelling), or no layer is left.
    """
    layers = weight_layers(model)
    names = list(layers)
    if not names:
        raise ValueError("the model has no convolution and no linear layer that could be sparse")
    dense: set[str] = set()
    for entry in keep_dense:
        pattern = {"first": names[0], "last": names[-1]}.get(entry, entry)
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise ValueError(f"sparsity.keep_dense={entry!r} fits no layer; the layers are {', '.join(names)}")
        dense.update(matches)
    sparse = {name: weight for name, weight in layers.items() if name not in dense}
    if not sparse:
        raise ValueError("sparsity.keep_dense leaves no layer to be sparse")
    return sparse


def standardised(model: nn.Module, layers: Mapping[str, nn.Parameter]) -> list[str]:
    """The layers that convolve with (w - mean) / std in place of w, where a weight of 0 is no longer 0."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, _STANDARDISING)}
    return [name for name, weight in layers.items() if id(weight) in weights]
