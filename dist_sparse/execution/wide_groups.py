"""Groups of 16 rows that share a list of columns, found in a mask by torch alone: what wide matrix products are made of.

Rows whose masks are equal come together, wherever they stand (blocks of 16 rows and more, shuffled blocks, whole filters); what
is left is grouped as it comes, and a group's columns are those in which any of its rows is active.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_sparse.execution.row_groups import group_rows
from dist_sparse.sparsity import bits

ROWS = 16
"""Rows of a group: what a tile of a matrix product has at least on a GPU."""

_WORD = 64


@dataclass(frozen=True)
class WideGroups:
    """The groups of one mask, on the mask's device."""

    rows: Tensor
    """int32 [groups, 16]: the rows of each."""
    start: Tensor
    """int32 [groups + 1]: where each one's columns begin,"""
    column: Tensor
    """int32 [columns]: among these, which ascend in each group."""

    @classmethod
    def of(cls, matrix: Tensor) -> "WideGroups":
        """From a mask, bool [rows, columns]; 16 divides the number of rows."""
        matrix, device = matrix.cpu(), matrix.device
        rows = group_rows(_kinds(matrix), ROWS)
        used = matrix[rows].any(1)
        start = F.pad(used.sum(1).cumsum(0), (1, 0))
        return cls(rows.to(device), start.int().to(device), used.nonzero()[:, 1].int().to(device))

    def positions(self, width: int) -> Tensor:
        """Where the groups' weights lie in the flattened matrix of ``width`` columns: int32 [columns, 16]."""
        return self.rows[self.group] * width + self.column[:, None]

    @cached_property
    def group(self) -> Tensor:
        """int32 [columns]: the group of each."""
        groups = torch.arange(len(self.rows), dtype=torch.int32, device=self.rows.device)
        return groups.repeat_interleave(self.start.diff(), output_size=len(self.column))

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """Where the columns of each group begin and end."""
        return list(itertools.pairwise(self.start.tolist()))


def _kinds(matrix: Tensor) -> Tensor:
    """By row a number that is the same for equal rows."""
    packed = bits.pack(F.pad(matrix, (0, -matrix.shape[1] % _WORD)))
    return torch.unique(packed.view(len(matrix), -1).view(torch.int64), dim=0, return_inverse=True)[1]
