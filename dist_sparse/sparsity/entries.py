"""A tensor of which most entries are 0, held as the others: a gradient after a step has taken what it may grow by."""

from dataclasses import dataclass

from torch import Size, Tensor

from dist_sparse.sparsity.tensors import where_true


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
        places = where_true(where.reshape(-1) & (flat != 0))
        return cls(tensor.shape, places.int(), flat.index_select(0, places))

    def whole(self) -> Tensor:
        """The tensor, anew and contiguous."""
        made = self.values.new_zeros(self.shape)
        made.view(-1).index_copy_(0, self.positions.long(), self.values)
        return made


def whole(held: Tensor | Entries) -> Tensor:
    """The tensor, made anew where its entries are held."""
    return held.whole() if isinstance(held, Entries) else held


def values_of(held: Tensor | Entries) -> Tensor:
    """All entries that are there."""
    return held.values if isinstance(held, Entries) else held
