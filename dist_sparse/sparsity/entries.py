"""A tensor of which most entries are 0, held as the others: a gradient after a step has taken what it may grow by."""

from dataclasses import dataclass

import torch
from torch import Size, Tensor

_WORTH_IT = 3
"""An entry takes its value and four bytes of position: from one entry in this many on, the tensor itself is hardly larger."""


@dataclass(frozen=True)
class Entries:
    """Some entries of a tensor; all others are 0."""

    shape: Size
    positions: Tensor
    """In the flattened tensor, int32 [entries]."""
    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor, where: Tensor) -> "Entries":
        """Those of ``where`` (bool, of the tensor's shape) that are not 0."""
        flat = tensor.reshape(-1)
        positions = (where.reshape(-1) & (flat != 0)).nonzero().view(-1).int()
        return cls(tensor.shape, positions, flat.index_select(0, positions))

    def whole(self) -> Tensor:
        """The tensor, anew and contiguous."""
        made = self.values.new_zeros(self.shape)
        made.view(-1).index_copy_(0, self.positions.long(), self.values)
        return made


def kept(tensor: Tensor) -> Tensor | Entries:
    """A copy of a tensor that takes less memory where most of it is 0."""
    if int(tensor.count_nonzero()) * _WORTH_IT > tensor.numel():
        return tensor.clone()
    return Entries.of(tensor, torch.ones_like(tensor, dtype=torch.bool))


def whole(held: Tensor | Entries) -> Tensor:
    """What :func:`kept` was given."""
    return held.whole() if isinstance(held, Entries) else held


def values(held: Tensor | Entries) -> Tensor:
    """All entries that are there."""
    return held.values if isinstance(held, Entries) else held
