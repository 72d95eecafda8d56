"""A masked layer whose parameter holds its active weights alone, in the order of the mask."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.products import Products
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.packed_tensor import PackedTensor
from dist_sparse.sparsity.tensors import where_true

Collect = Callable[[str, Tensor], None]
"""Takes the gradient of a layer's whole weight, by the layer's name."""


@dataclass(frozen=True)
class Move:
    """From the active weights of one mask to those of another: what both have stays, what is new is 0."""

    source: Tensor
    """For each new entry the old one, or the number of old ones where it had none: int32 [new]."""

    @classmethod
    def between(cls, before: Tensor, after: Tensor, size: int) -> "Move":
        """From positions to others, both below ``size``."""
        number = torch.full((size,), len(before), dtype=torch.int32, device=before.device)
        number.scatter_(0, before.long(), torch.arange(len(before), dtype=torch.int32, device=before.device))
        return cls(number.index_select(0, after))

    def __call__(self, values: Tensor) -> Tensor:
        """``values`` [old] or [old, 1] as [new, 1]."""
        flat = values.reshape(-1)  # of vectors torch selects five times as fast as of columns
        return torch.cat([flat, flat.new_zeros(1)]).index_select(0, self.source)[:, None]


class PackedLayer:
    """Where a layer's active weights belong: one for a network and all its copies."""

    def __init__(self, name: str, shape: Size, packed: Tensor) -> None:
        """``packed`` are the mask's bits (:mod:`dist_sparse.sparsity.bits`)."""
        self.name, self.shape = name, shape
        self.collect: Collect | None = None
        """What is to have the gradient of the whole weight in the coming backward passes; None: nobody."""
        self._take(packed)

    def __deepcopy__(self, memo: object) -> "PackedLayer":
        return self

    def _take(self, packed: Tensor) -> None:
        self.packed = packed
        self.positions = where_true(bits.unpack(packed, self.shape)).int()
        """Positions of the active weights in the flattened weight, ascending: int32 [active]."""
        self._orders: WeakKeyDictionary[Products, tuple[Tensor | None, Tensor | None]] = WeakKeyDictionary()

    @property
    def index_bytes(self) -> int:
        """What the layer holds beside its values."""
        orders = [each for pair in self._orders.values() for each in pair if each is not None]
        return sum(each.numel() * each.element_size() for each in (self.positions, *orders))

    def move_to(self, packed: Tensor) -> Move:
        """Take another mask; returns what is to be done with all that was packed by the one before."""
        before = self.positions
        self._take(packed)
        return Move.between(before, self.positions, self.shape.numel())

    def pack(self, weight: Tensor | PackedTensor) -> Tensor:
        """The active entries [active, 1] of a tensor of the weight's shape, on the tensor's device."""
        if isinstance(weight, PackedTensor):
            if weight.bits.equal(self.packed.to(weight.bits.device)):
                return weight.values[:, None]
            weight = weight.whole()
        return weight.reshape(-1).index_select(0, self.positions.to(weight.device))[:, None]

    def hand_over(self, values: Tensor) -> PackedTensor:
        """The weight from its active entries [active, 1], which are not copied."""
        return PackedTensor(self.packed, values.detach().reshape(-1), self.shape)

    def expand(self, values: Tensor) -> Tensor:
        """The weight with its zeros, from its active entries [active, 1]."""
        whole = values.new_zeros(self.shape)
        whole.view(-1).scatter_(0, self.positions.long(), values.reshape(-1))
        return whole

    def values(self, parameter: Tensor, products: Products) -> Tensor:
        """As :meth:`.Stored.values`."""
        order, _ = self._order(products)
        shape, flat = products.positions.shape, parameter.reshape(-1)
        if order is None:
            return flat.view(shape)
        if len(flat) < order.numel():  # some are of inactive weights
            flat = torch.cat([flat, flat.new_zeros(1)])
        return flat.index_select(0, order).view(shape)

    def gradient(self, parameter: Size, products: Products, of_values: Tensor) -> Tensor:
        """As :meth:`.Stored.gradient`."""
        _, place = self._order(products)
        flat = of_values.reshape(-1)
        return (flat if place is None else flat.index_select(0, place)).view(parameter)

    def gradient_of_all(self, parameter: Size, of_weight: Tensor) -> Tensor:
        """As :meth:`.Stored.gradient_of_all`; who collects whole gradients has it first."""
        if self.collect is not None:
            self.collect(self.name, of_weight.reshape(self.shape))
        return self.pack(of_weight).view(parameter)

    def _order(self, products: Products) -> tuple[Tensor | None, Tensor | None]:
        """For each value of the products the active entry (or as many as there are, for an inactive weight), and the way back.

        None where both have one order.
        """
        if products not in self._orders:
            self._orders[products] = _order(products.positions.view(-1), self.positions)
        return self._orders[products]


def _order(of_products: Tensor, positions: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if torch.equal(of_products, positions):
        return None, None
    entry = torch.searchsorted(positions, of_products)
    found = entry < len(positions)
    found &= positions.index_select(0, entry.clamp(max=max(len(positions) - 1, 0))) == of_products if len(positions) else False
    entry[~found] = len(positions)
    place = torch.empty(len(positions), dtype=torch.int32, device=positions.device)
    place[entry[found]] = where_true(found).int()
    return entry.int(), place


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, layer: PackedLayer, dtype: torch.dtype) -> Tensor:
        ctx.layer, ctx.shape, ctx.dtype = layer, values.shape, values.dtype
        return layer.expand(values.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return ctx.layer.gradient_of_all(ctx.shape, gradient.to(ctx.dtype)), None, None


def expanded(values: Tensor, layer: PackedLayer, dtype: torch.dtype) -> Tensor:
    """The weight of a layer in a type, from its parameter, as an operation of autograd."""
    return _Expand.apply(values, layer, dtype)  # pyright: ignore[reportReturnType]
