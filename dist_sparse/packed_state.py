"""A checkpoint's tensors as bits and values: those of which most entries are zeros take the room of the others.

Nothing is lost but the sign of zeros, which masks leave behind and nothing computes by.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dist_sparse.sparsity import bits

_BITS, _VALUES, _SHAPE = "bits", "values", "shape"
_LEAST = 1024
"""Entries of a tensor below which packing is not worth a thought."""
_MOST = 0.5
"""The share of entries that may be values."""


def pack(tree: Any) -> Any:
    """A tree of mappings, lists and tuples with its sparse tensors packed."""
    if isinstance(tree, Tensor):
        return _packed(tree)
    return _each(tree, pack)


def unpack(tree: Any) -> Any:
    """The way back; a tree without packed tensors is as it was.

    Raises:
        ValueError: bits and values do not belong together.
    """
    if isinstance(tree, Mapping) and tree.keys() == {_BITS, _VALUES, _SHAPE}:
        return _whole(tree[_BITS], tree[_VALUES], torch.Size(tree[_SHAPE]))
    return _each(tree, unpack)


def _each(tree: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        changed = copy.copy(tree)  # a state_dict stays one, with what it knows of its modules' versions
        assert isinstance(changed, dict)
        for key, each in tree.items():
            changed[key] = change(each)
        return changed
    if type(tree) in (list, tuple):
        return type(tree)(change(each) for each in tree)
    return tree


def _packed(tensor: Tensor) -> Any:
    if not tensor.is_floating_point() or tensor.numel() < _LEAST:
        return tensor
    flat = tensor.detach().reshape(-1)
    held = flat != 0
    if int(held.count_nonzero()) > _MOST * len(flat):
        return tensor
    return {_BITS: bits.pack(held), _VALUES: flat[held], _SHAPE: list(tensor.shape)}


def _whole(packed: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    if len(packed) != -(-shape.numel() // 8) or bits.popcount(packed) != len(values):
        raise ValueError(f"{len(values)} values do not fit the bits of {list(shape)}")
    whole = values.new_zeros(shape)
    whole.view(-1)[bits.unpack(packed, (shape.numel(),))] = values
    return whole
