"""Modules whose parameter ``weight`` holds the active weights alone: to their forward it looks as whole as ever.

Where a layer is computed by all its weights, they are there for the moment of its forward, and again of its backward: what
autograd would keep of them is made anew.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C import _autograd
from torch.autograd.graph import saved_tensors_hooks

from dist_sparse.execution.packed_layer import PackedLayer, expanded


def pack_module(module: nn.Module, layer: PackedLayer) -> nn.Parameter:
    """Let a module hold the active entries [active, 1] of its weight; returns the parameter that does so."""
    whole = module._parameters["weight"]
    assert whole is not None
    module.__class__ = _packed(type(module))
    module.__dict__["store"] = layer
    held = nn.Parameter(layer.pack(whole.detach()), requires_grad=whole.requires_grad)
    module._parameters["weight"] = held
    whole.data = whole.new_empty(()).expand(whole.shape)  # whoever holds it knows its shape, and holds no memory
    return held


class _Again(NamedTuple):
    """What makes a tensor on an expanded weight's memory anew."""

    values: Tensor
    layer: PackedLayer
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt

    def make(self) -> Tensor:
        whole = self.layer.expand(self.values.to(self.dtype))
        return whole.as_strided(self.size, self.stride, self.offset)


class _Packed(nn.Module):
    """To be inherited from beside a kind of layer."""

    store: PackedLayer

    @property
    def weight(self) -> Tensor:
        """The weight with its zeros, in the type that is computed in; an operation of autograd on the parameter."""
        values = self._parameters["weight"]
        assert values is not None
        kind = values.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
        whole = expanded(values, self.store, dtype)
        self.__dict__["_now"] = whole.untyped_storage().data_ptr(), dtype
        return whole

    def forward(self, *inputs: Any, **named: Any) -> Any:
        self.__dict__["_now"] = None
        # Torch applies the innermost pair of hooks alone: what checkpointing, say, does with other tensors is up to this one.
        keep, bring_back = _autograd._top_saved_tensors_default_hooks(False) or (_same, _same)
        try:
            with saved_tensors_hooks(functools.partial(self._keep, keep), functools.partial(_bring_back, bring_back)):
                return super().forward(*inputs, **named)
        finally:
            self.__dict__["_now"] = None

    def _keep(self, keep: Callable[[Tensor], Any], tensor: Tensor) -> Any:
        now = self.__dict__["_now"]
        if now is None or tensor.untyped_storage().data_ptr() != now[0]:
            return keep(tensor)
        values = self._parameters["weight"]
        assert values is not None
        return _Again(values.detach(), self.store, now[1], tensor.size(), tensor.stride(), tensor.storage_offset())


def _bring_back(bring_back: Callable[[Any], Tensor], kept: Any) -> Tensor:
    return kept.make() if isinstance(kept, _Again) else bring_back(kept)


def _same(tensor: Tensor) -> Tensor:
    return tensor


@functools.cache
def _packed(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Packed{kind.__name__}", (_Packed, kind), {})
