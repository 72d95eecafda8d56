"""A masked convolution by groups of four rows that share a list of columns: an input, once loaded, serves four products.

Rows whose masks are equal come together, wherever they stand (blocks of 4x1 and larger, shuffled blocks, whole filters); what
is left is grouped as it comes, and a group's columns are those in which any of its rows is active. So a mask that is no block
structure works as well, at the cost of products with zeros; :attr:`RowGroups.fill` tells how many.
"""

import torch
from torch import Tensor

from dist_sparse.execution.geometry import Geometry, empty_innermost, padded
from dist_sparse.execution.kernels import GroupIndex, Kernels
from dist_sparse.execution.passes import Choice, over_outputs, with_gradient_ahead

GROUP = 4


def group_rows(mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Groups of four rows of a bool matrix [rows, columns], whose number four divides.

    Returns:
        The rows int64 [groups, 4] of each group, and its columns: ``start`` int32 [groups + 1], ``column`` int64.
    """
    _, kind = torch.unique(mask, dim=0, return_inverse=True)
    alike = kind.argsort(stable=True)
    place = torch.arange(len(kind)) - torch.searchsorted(kind[alike], kind[alike])
    whole = place < kind.bincount()[kind[alike]] // GROUP * GROUP
    order = torch.cat([alike[whole], alike[~whole].sort().values]).view(-1, GROUP)
    order = order[order[:, 0].argsort()]  # near rows first, so that results are written in order
    columns = mask[order].any(1)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), columns.sum(1).cumsum(0)])
    return order, start.int(), columns.nonzero()[:, 1]


class RowGroups:
    """The products of one mask in one geometry; tensors as those of :class:`.unstructured.Unstructured`."""

    def __init__(self, kernels: Kernels, mask: Tensor, geometry: Geometry, choice: Choice) -> None:
        """``mask`` is bool [out, in, height, width]."""
        self.geometry, self._kernels, self._choice = geometry, kernels, choice
        rows, start, column = group_rows(mask.reshape(len(mask), -1))
        self._index = GroupIndex(start=start, offset=geometry.offsets[column], rows=rows.int())
        group = torch.repeat_interleave(torch.arange(len(rows)), start.diff())
        self.positions = rows[group] * geometry.columns + column[:, None]
        """Where the values lie in the flattened weight: int64 [columns, 4]."""
        self.fill = float(mask.sum()) / max(1, self.positions.numel())

    def forward(self, source: Tensor, values: Tensor) -> Tensor:
        """The output [N, out, H, W], samples innermost, of a padded input and values [columns, 4]."""
        target = empty_innermost(source, self.geometry.samples, self.geometry.channels_out, self.geometry.out_size)
        shape = over_outputs(
            self.geometry, self._choice.forward, element_size=source.element_size(), streams=self._choice.streams
        )
        self._kernels.multiply_groups(shape, source, target, self._index, values)
        return target

    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor:
        """The gradient [N, in, H, W] of the input from the output's; samples are innermost, the padding lies between rows."""
        geometry = self.geometry
        (top, left), (height, width) = geometry.padding, geometry.size
        made = gradient.new_zeros(*geometry.padded, geometry.channels_in, geometry.samples)
        source = padded(gradient, (0, 0), (0, 0))
        size = gradient.element_size()
        shape = with_gradient_ahead(over_outputs(geometry, self._choice.backward, element_size=size), element_size=size)
        self._kernels.spread_groups(shape, made, source, self._index, values)
        return made[top : top + height, left : left + width].permute(3, 2, 0, 1)

    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        """The gradient [columns, 4] of the values from the padded input and the output's gradient."""
        shape = over_outputs(self.geometry, self._choice.weights, element_size=source.element_size())
        return self._kernels.correlate_groups(shape, source, padded(gradient, (0, 0), (0, 0)), self._index)
