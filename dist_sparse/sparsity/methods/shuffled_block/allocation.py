"""Which layers of a model are in shuffled blocks, how many blocks each has, and the first ones."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dist_sparse.errors import UserError
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.distributions import Shapes
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.initial import best_units
from dist_sparse.sparsity.methods.shuffled_block.blocks import Blocks, extract

_log = logging.getLogger(__name__)

_ROUNDING = 0.02  # relative difference between the density asked for and the one in whole blocks that is worth a warning


@dataclass(frozen=True, kw_only=True)
class BlockAllocation:
    """Blocks of ``size`` x ``size``; ``units`` weights are meant to be active in each layer."""

    context: Context
    size: int
    units: Mapping[str, int]
    counts: Mapping[str, int]
    """Blocks of each layer that has any."""
    dense: frozenset[str]
    """Layers that are dense, by their density or because their blocks fill them."""
    blocks: dict[str, Blocks] = field(default_factory=dict)
    """The first blocks of the layers whose mask was asked for."""

    def active(self) -> dict[str, int]:
        """Active weights of each layer."""
        whole = {name: self.context.shapes[name].numel() for name in self.dense}
        return {**self.units, **whole, **_active(self.counts, self.size)}

    def initial_mask(self, name: str) -> Tensor:
        """The largest weights of a layer, or the blocks that hold most of them."""
        weight = self.context.weights[name].detach()
        if name in self.dense:
            return torch.ones_like(weight, dtype=torch.bool)
        magnitude = scores.magnitude(weight)
        mask = best_units(magnitude, self.units[name], self.context.structure)
        if name not in self.counts:
            return mask
        matrix, value = (tensor.reshape(len(weight), -1) for tensor in (mask, magnitude * mask))
        self.blocks[name] = extract(matrix, value, size=self.size, count=self.counts[name])
        return self.blocks[name].mask(weight.shape)


def allocate_blocks(context: Context, size: int) -> BlockAllocation:
    """The allocation with blocks in all convolutions that ``size`` fits.

    Raises:
        UserError: it fits none, or the density cannot be reached.
    """
    units, shapes = context.units(), context.shapes
    misfits = {name: shape for name, shape in shapes.items() if len(shape) > 2 and not _fits(shape, size)}
    fitting = {name: -(-units[name] // size**2) for name, shape in shapes.items() if len(shape) > 2 and name not in misfits}
    if not fitting:
        raise UserError(f"sparsity.shuffled_block.size={size} fits no sparse convolution{_example(misfits)}; 0 is RigL")
    if misfits:
        _log.info("sparsity.shuffled_block.size=%d does not fit %s: unstructured", size, ", ".join(misfits))
    counts = {name: count for name, count in fitting.items() if count * size**2 < shapes[name].numel()}
    full = {name for name, shape in shapes.items() if units[name] == shape.numel()} | fitting.keys() - counts.keys()
    _warn_of_rounding(shapes, units, {name: shapes[name].numel() for name in full} | _active(counts, size))
    return BlockAllocation(context=context, size=size, units=units, counts=counts, dense=frozenset(full))


def _fits(shape: torch.Size, size: int) -> bool:
    return shape[0] % size == 0 and shape[1:].numel() % size == 0 and shape[1] >= size


def _example(misfits: Shapes) -> str:
    if not misfits:
        return ": there is none"
    name, shape = max(misfits.items(), key=lambda item: item[1].numel())
    return (
        f": it must divide the output channels and the columns of the weight matrix and not exceed the input channels; "
        f"{name}, the largest, has {shape[0]}, {shape[1:].numel()} and {shape[1]}"
    )


def _active(counts: Mapping[str, int], size: int) -> dict[str, int]:
    return {name: count * size**2 for name, count in counts.items()}


def _warn_of_rounding(shapes: Shapes, units: Mapping[str, int], rounded: Mapping[str, int]) -> None:
    wanted, active = sum(units.values()), sum({**units, **rounded}.values())
    total = sum(shape.numel() for shape in shapes.values())
    if active - wanted > _ROUNDING * wanted:
        _log.warning("whole blocks make the density %.4f instead of %.4f", active / total, wanted / total)
