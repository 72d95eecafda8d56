"""A tensor of which most entries are 0, in the least memory: one bit for each entry, and the values of those that are held."""

from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor, dtype

from dist_sparse.sparsity import bits
from dist_sparse.sparsity.tensors import select


@dataclass(frozen=True)
class PackedTensor:
    """What a checkpoint holds of a sparse tensor, and what an engine hands over that holds active weights alone."""

    bits: Tensor
    """Bits as :func:`dist_sparse.sparsity.bits.pack` gives them, set where a value is held: uint8 [ceil(entries / 8)]."""
    values: Tensor
    """In the order of the flattened tensor: [held]."""
    shape: Size

    @classmethod
    def of(cls, tensor: Tensor, held: Tensor) -> "PackedTensor":
        """The entries of a tensor where ``held`` (bool, of its shape) is true; all others must be 0."""
        return cls(bits.pack(held), select(tensor, held), tensor.shape)

    @property
    def dtype(self) -> dtype:
        return self.values.dtype

    def check(self) -> None:
        """Refuse with a ValueError bits and values that do not belong together."""
        if len(self.bits) != -(-self.shape.numel() // 8) or bits.popcount(self.bits) != len(self.values):
            raise ValueError(f"{len(self.values)} values do not fit the bits of {list(self.shape)}")

    def whole(self) -> Tensor:
        """The tensor, anew and contiguous."""
        made = self.values.new_zeros(self.shape)
        made.view(-1)[bits.unpack(self.bits, (self.shape.numel(),))] = self.values
        return made


def whole(held: Any) -> Any:
    """A packed tensor made whole; anything else is as it was."""
    return held.whole() if isinstance(held, PackedTensor) else held
