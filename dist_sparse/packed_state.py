"""A checkpoint's tensors as bits and values: those of which most entries are zeros take the room of the others.

Nothing is lost but the sign of zeros, which masks leave behind and nothing computes by. In a file a
:class:`.PackedTensor` is a mapping of its three parts.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dist_sparse.sparsity.packed_tensor import PackedTensor

_BITS, _VALUES, _SHAPE = "bits", "values", "shape"
_LEAST = 1024
"""Entries of a tensor below which packing is not worth a thought."""
_MOST = 0.5
"""The share of entries that may be values."""
_MAY_STAY = ("state_dict", "state_dict_ema", "optimizer")
"""Entries of a checkpoint that an engine with packed weights takes as they are."""


def pack(tree: Any) -> Any:
    """A tree of mappings, lists and tuples as a file holds it, with sparse tensors packed."""
    if isinstance(tree, Tensor):
        tree = _packed(tree)
    if isinstance(tree, PackedTensor):
        return {_BITS: tree.bits, _VALUES: tree.values, _SHAPE: list(tree.shape)}
    return _each(tree, pack)


def unpack(tree: Any) -> Any:
    """A tree with all tensors whole, of a file's or of an engine's; one without packed tensors is as it was.

    Raises:
        ValueError: bits and values do not belong together.
    """
    tree = _held(tree)
    return tree.whole() if isinstance(tree, PackedTensor) else _each(tree, unpack)


def unpack_all_but_networks(state: Mapping[str, Any]) -> dict[str, Any]:
    """A file's state, in which sparse weights and the optimizer's state of them stay :class:`.PackedTensor`.

    Raises:
        ValueError: bits and values do not belong together.
    """
    return {key: _stay(tree) if key in _MAY_STAY else unpack(tree) for key, tree in state.items()}


def _stay(tree: Any) -> Any:
    tree = _held(tree)
    return tree if isinstance(tree, PackedTensor) else _each(tree, _stay)


def _held(tree: Any) -> Any:
    if isinstance(tree, Mapping) and tree.keys() == {_BITS, _VALUES, _SHAPE}:
        tree = PackedTensor(tree[_BITS], tree[_VALUES], torch.Size(tree[_SHAPE]))
        tree.check()
    return tree


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


def _packed(tensor: Tensor) -> Tensor | PackedTensor:
    if not tensor.is_floating_point() or tensor.numel() < _LEAST:
        return tensor
    held = tensor.detach() != 0
    if int(held.count_nonzero()) > _MOST * tensor.numel():
        return tensor
    return PackedTensor.of(tensor.detach(), held)
