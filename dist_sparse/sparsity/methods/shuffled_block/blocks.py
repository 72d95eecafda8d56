"""Shuffled blocks: b x b blocks of a weight matrix whose rows and columns may stand anywhere.

A weight is seen as a matrix of output channels by all else, [rows, columns]. The rows are cut into groups of b; a block is one
group of rows and any b columns, and within a group the blocks' columns are disjoint. So a row group can gather its columns and
multiply dense b x b tiles. (In a convolution of several groups a block may hold rows of different groups, whose columns are
different inputs: there the blocks are in the weight, but no tiles of the product.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_sparse.sparsity.methods.shuffled_block.row_groups import row_groups
from dist_sparse.sparsity.selection import top_k


@dataclass(frozen=True)
class Blocks:
    """B blocks of b x b weights in a layer of G row groups."""

    rows: Tensor
    """int32 [G, b]: the rows of each group; every row of the layer stands in one."""
    groups: Tensor
    """int32 [B]: the group of each block, ascending."""
    columns: Tensor
    """int32 [B, b]: the columns of each block."""

    def positions(self, width: int) -> Tensor:
        """Where the blocks' entries lie in the flattened matrix of ``width`` columns: int64 [B, b, b]."""
        return (self.rows[self.groups.long()].long() * width)[:, :, None] + self.columns.long()[:, None, :]

    def mask(self, shape: torch.Size) -> Tensor:
        """The bool mask of a weight's ``shape``."""
        mask = torch.zeros(shape.numel(), dtype=torch.bool, device=self.columns.device)
        mask[self.positions(shape[1:].numel()).view(-1)] = True
        return mask.view(shape)

    def pack(self) -> Tensor:
        """The blocks as one int32 vector of :func:`packed_length`."""
        return torch.cat([self.rows.view(-1), self.groups, self.columns.view(-1)])

    @classmethod
    def unpack(cls, packed: Tensor, rows: int, size: int) -> "Blocks":
        """The inverse of :meth:`pack` for a layer of so many rows and blocks of ``size``."""
        count = (len(packed) - rows) // (1 + size)
        parts = packed.split([rows, count, count * size])
        return cls(parts[0].view(-1, size), parts[1], parts[2].view(count, size))


def packed_length(rows: int, count: int, size: int) -> int:
    """Numbers that describe ``count`` blocks of ``size`` in a layer of so many rows."""
    return rows + count * (1 + size)


def extract(mask: Tensor, value: Tensor, *, size: int, count: int) -> Blocks:
    """The ``count`` blocks that hold most of ``value``.

    Rows with similar masks come together (:func:`.row_groups`). In each group the columns are ordered by the norm of their
    values, the largest first, and every b columns in that order are a candidate, whose score is the sum of their norms. The
    best candidates of the whole layer are taken; where they tie, those of the lower group, and in it those that come first.

    Args:
        mask: bool [rows, columns], both multiples of ``size``.
        value: [rows, columns], not negative, 0 off the mask.
    """
    groups = row_groups(mask, size)
    # Several times faster than vector_norm, which reads columns one by one.
    norms = value.square()[groups.view(-1)].view(len(groups), size, -1).sum(1).sqrt_()
    ordered, columns = norms.sort(dim=1, descending=True, stable=True)
    candidates = columns.view(len(groups), -1, size)
    score = ordered.view_as(candidates).sum(2)
    chosen = top_k(score.view(1, -1), torch.tensor([count]), among=torch.ones_like(score, dtype=torch.bool).view(1, -1))
    group, place = chosen.view_as(score).nonzero(as_tuple=True)
    return Blocks(groups.int(), group.int(), candidates[group, place].int())


def drop_rows_and_columns(dropped: Tensor, blocks: Blocks) -> Tensor:
    """Which of the dropped weights leave, bool [rows, columns].

    A weight leaves if at least half of its row or of its column within its block is dropped. Small weights in rows and columns
    that are mostly good stay, so that a block loses whole rows and columns.

    Args:
        dropped: bool [rows, columns], all of them in some block.
    """
    positions = blocks.positions(dropped.shape[1])
    inside = dropped.reshape(-1)[positions]
    half = blocks.columns.shape[1]
    of_row, of_column = 2 * inside.sum(2, keepdim=True) >= half, 2 * inside.sum(1, keepdim=True) >= half
    leaves = torch.zeros_like(dropped).view(-1)
    leaves[positions[inside & (of_row | of_column)]] = True
    return leaves.view_as(dropped)


def drop_and_grow(blocks: Blocks, magnitude: Tensor, mask: Tensor, dropped: Tensor, grow_score: Tensor) -> Blocks:
    """The blocks after an update, in which as many weights grow as are dropped.

    A grown weight counts with the mean of those that were kept, so that it can draw a block to itself.

    Args:
        magnitude: [rows, columns], not negative.
        mask: bool [rows, columns], the blocks'.
        dropped: bool [rows, columns], part of the mask; what has just been dropped may grow again.
        grow_score: finite [rows, columns]; the inactive that score most grow.
    """
    kept = mask & ~dropped
    count = dropped.sum().view(1).cpu()
    grown = top_k(grow_score.reshape(1, -1), count, among=~kept.view(1, -1)).view_as(kept)
    value = magnitude * kept
    held = value.count_nonzero()
    mean = torch.where(held > 0, value.sum() / held, 1)
    value = torch.where(grown, mean, value)
    return extract(kept | grown, value, size=blocks.columns.shape[1], count=len(blocks.columns))
