"""The operations of a traced network, by what they do to the units of a tensor."""

import torch
from torch import fx

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}

# Without an entry for every activation: torch itself marks those that compute each element alone, save these.
_ELEMENTWISE = {
    "hardswish",
    "dropout",
    "dropout2d",
    "feature_dropout",
    "alpha_dropout",
    "to",
    "_to_copy",
    "contiguous",
    "clone",
}
_SWALLOW_UNKNOWN = {"nan_to_num", "fmax", "fmin", "isnan", "isfinite", "isinf", "where", "heaviside", "nextafter", "fill"}
"""Elementwise operations whose result may be a number where an operand is none."""

SHAPES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand"),
    *("slice", "select", "unbind", "split", "split_with_sizes", "chunk", "narrow", "movedim", "swapaxes", "detach", "alias"),
    *("roll", "flip", "expand_as", "view_as"),
}
"""Operations that move elements and compute nothing."""
CUTS = {"slice", "select", "unbind", "split", "split_with_sizes", "chunk", "narrow"}
"""Those that take parts of a dimension, by numbers that stand in the network's code."""
RESHAPES = {"view", "reshape", "_unsafe_view", "unflatten"}

POOLS = {f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)} | {
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "pad", "constant_pad_nd"),
}
"""Operations on dimensions 2 and later, each channel alone."""
REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std"}
SOFTMAX = {"softmax", "_softmax", "log_softmax"}


def name_of(node: fx.Node) -> str:
    """The name of an operation, the same in place or not."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.partition("::")[2] if schema is not None else getattr(node.target, "__name__", str(node.target))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def is_elementwise(node: fx.Node) -> bool:
    """Each element of the result comes from the same element of the operands alone, and is unknown where one of them is."""
    name = name_of(node)
    if name in _SWALLOW_UNKNOWN:
        return False
    return name in _ELEMENTWISE or torch.Tag.pointwise in getattr(node.target, "tags", ())


def argument(node: fx.Node, index: int, name: str, default: object = None) -> object:
    """An argument by its position or its name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def is_padded(node: fx.Node) -> bool:
    """A convolution reads zeros beyond the border, or an average counts them."""
    name = name_of(node)
    place = {"avg_pool1d": 3, "avg_pool2d": 3, "avg_pool3d": 3}.get(name, 4)
    padding = argument(node, place, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, list | tuple) else bool(padding)


def groups_of(node: fx.Node) -> int:
    """Into how many groups of channels a convolution is cut."""
    groups = argument(node, 6, "groups", 1)
    assert isinstance(groups, int)
    return groups
