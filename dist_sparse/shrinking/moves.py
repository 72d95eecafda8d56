"""Where units are after an operation that only moves elements: the operation itself is done to their numbers."""

from typing import Any

import torch
from torch import Tensor, fx

from dist_sparse.shrinking import operations as ops
from dist_sparse.shrinking.trace import shape_of
from dist_sparse.shrinking.units import Axis, Ids

_CUT_DIM = {"split": 2, "split_with_sizes": 2, "chunk": 2}
"""Where the dimension stands among the arguments, if not second."""


class Mixed(Exception):
    """Units no longer lie along one dimension, or the network's code counts on their number."""


def follow(node: fx.Node, axis: Axis, heads: object) -> tuple[Axis | list[Any], list[tuple[Ids, Ids]]]:
    """The units of the result, or of each part of it.

    Args:
        heads: the number of heads that the module knows whose code this is, if it is an attention.

    Returns:
        the result's units, and pairs of units that have to be joined since they belong to one head.

    Raises:
        Mixed: see there.
    """
    source: Any = node.args[0]
    shape, name = shape_of(source), ops.name_of(node)
    if name in ops.CUTS:
        dim: Any = ops.argument(node, _CUT_DIM.get(name, 1), "dim", 0)
        value = node.meta["val"]
        whole = isinstance(value, Tensor) and value.shape == shape
        if dim % len(shape) == axis.dim and not whole:
            raise Mixed
    numbers = torch.from_numpy(axis.ids).view([-1 if dim == axis.dim else 1 for dim in range(len(shape))]).expand(shape)
    arguments = fx.map_arg(node.args, lambda each: numbers if each is source else torch.empty(shape_of(each), device="meta"))
    operation: Any = node.target
    moved = operation(*arguments, **node.kwargs)
    joined: list[tuple[Ids, Ids]] = []
    if isinstance(moved, Tensor):
        return _found(name, axis, moved, heads, joined), joined
    return [_found(name, axis, part, heads, joined) for part in moved], joined


def _found(name: str, before: Axis, moved: Tensor, heads: object, joined: list[tuple[Ids, Ids]]) -> Axis:
    """The dimension along which the numbers differ now; of several, the one that counts the heads."""
    varying = [dim for dim in range(moved.dim()) if bool((moved != moved.narrow(dim, 0, 1)).any())]
    if not varying:
        raise Mixed
    split = name in ops.RESHAPES and (len(varying) > 1 or moved.shape[varying[0]] < len(before.ids))
    if len(varying) > 1 and not split:
        raise Mixed
    dim = varying[0]
    if split:
        fitting = [dim for dim in varying[:-1] or varying if moved.shape[dim] == heads]
        if not fitting:
            raise Mixed
        dim = fitting[-1]
    rows = moved.movedim(dim, 0).reshape(moved.shape[dim], -1)
    ids = rows[:, 0].numpy().copy()
    if split:
        joined.extend((ids, column.numpy()) for column in torch.unique(rows, dim=1).unbind(1))
    return Axis(dim, ids)
