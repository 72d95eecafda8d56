"""A masked convolution by groups of four rows that share a list of columns: an input, once loaded, serves four products.

Rows whose masks are equal come together, wherever they stand (blocks of 4x1 and larger, shuffled blocks, whole filters); what
is left is grouped as it comes, and a group's columns are those in which any of its rows is active. So a mask that is no block
structure works as well, at the cost of products with zeros; :attr:`RowGroups.fill` tells how many. Where groups have most of
all columns, they take the others as well: the layer is then dense, and the gradient of its input a product of the same kind.
"""

from functools import cached_property

import torch
from torch import Tensor

from dist_sparse.execution.geometry import Geometry, empty_innermost, padded
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.passes import Choice, gradient_by_phase, over_outputs
from dist_sparse.execution.products import InnermostProducts
from dist_sparse.execution.structures import GroupIndex, Pass, dtype_of_offsets

GROUP = 4
_MOST_COLUMNS = 0.85
"""From this share on, products with zeros cost less than what a dense layer gains."""


def group_rows(hashes: Tensor, size: int = GROUP) -> Tensor:
    """Groups of so many rows, whose number that divides, by numbers that are the same for equal rows: int32 [groups, size]."""
    _, kind = torch.unique(hashes, return_inverse=True)
    alike = kind.argsort(stable=True)
    place = torch.arange(len(kind)) - torch.searchsorted(kind[alike], kind[alike])
    whole = place < kind.bincount()[kind[alike]] // size * size
    order = torch.cat([alike[whole], alike[~whole].sort().values]).view(-1, size)
    return order[order[:, 0].argsort()].int()  # near rows first, so that results are written in order


def load_of_groups(kernels: Kernels, matrix: Tensor) -> float:
    """The share of a matrix's products that groups of four rows compute, from its mask: bool [rows, columns]."""
    rows = group_rows(kernels.hash_rows(matrix)[0])
    share = GROUP * len(kernels.columns_of_groups(matrix, rows)[1]) / max(1, matrix.numel())
    return 1.0 if share >= _MOST_COLUMNS else share


class RowGroups(InnermostProducts):
    """The products of one mask in one geometry; tensors as those of :class:`.unstructured.Unstructured`."""

    def __init__(self, kernels: Kernels, mask: Tensor, geometry: Geometry, choice: Choice) -> None:
        """``mask`` is bool [out, in, height, width]."""
        self.geometry, self._kernels, self._choice = geometry, kernels, choice
        matrix = mask.reshape(len(mask), -1)
        hashes, active = kernels.hash_rows(matrix)
        self._rows = group_rows(hashes)
        self._start, self._column = kernels.columns_of_groups(matrix, self._rows)
        every = len(self._rows) * geometry.columns
        self.is_dense = geometry.channels_in % GROUP == 0 and len(self._column) >= _MOST_COLUMNS * every
        if self.is_dense:
            self._start = torch.arange(0, every + 1, geometry.columns, dtype=torch.int32)
            self._column = torch.arange(geometry.columns, dtype=torch.int32).repeat(len(self._rows))
        self.fill = active / max(1, GROUP * len(self._column))

    @property
    def positions(self) -> Tensor:
        """Where the values lie in the flattened weight: int32 [columns, 4]."""
        return self._positions

    @cached_property
    def _positions(self) -> Tensor:
        group = torch.repeat_interleave(self._start.diff(), output_size=len(self._column))
        return self._rows[group] * self.geometry.columns + self._column[:, None]

    @cached_property
    def _index(self) -> GroupIndex:
        offsets = self.geometry.offsets
        offset = offsets.to(dtype_of_offsets(int(offsets.max())))[self._column]
        return GroupIndex(start=self._start, offset=offset, rows=self._rows)

    @cached_property
    def _transposed(self) -> tuple[list[GroupIndex], Tensor]:
        """A dense layer's groups of four input channels by phase, and the values' order there (int32)."""
        geometry, channels = self.geometry, self.geometry.channels_in
        size = geometry.channels_out, geometry.columns
        every = torch.arange(size[0] * size[1], dtype=torch.int32)
        place = torch.empty_like(every)
        place[self.positions.view(-1)] = every
        keys = geometry.keys, len(geometry.phases) * channels
        index, entry = self._kernels.index_by_key(every, size, keys, geometry.gradient_offsets, size[0])
        groups = torch.arange(channels // GROUP + 1, dtype=torch.int32)
        starts, offsets, order = [], [], []
        for key in range(0, keys[1], channels):
            begin, end = int(index.start[key]), int(index.start[key + channels])
            by_group = len(groups) - 1, GROUP, (end - begin) // channels
            starts.append(groups * by_group[2] + begin // GROUP)
            offsets.append(index.offset[begin:end].view(by_group)[:, 0].reshape(-1))
            order.append(place[entry[begin:end]].view(by_group).transpose(1, 2).reshape(-1))
        offset, rows = torch.cat(offsets), torch.arange(channels, dtype=torch.int32)
        return [GroupIndex(start=start, offset=offset, rows=rows) for start in starts], torch.cat(order)

    @property
    def index_bytes(self) -> int:
        """What the index structures hold."""
        held = [self.positions, self._column, self._index.start, self._index.offset, self._rows]
        if self.is_dense:
            indices, order = self._transposed
            held += [order, indices[0].offset, indices[0].rows, *(each.start for each in indices)]
        return sum(each.numel() * each.element_size() for each in held)

    def forward(self, source: Tensor, values: Tensor) -> Tensor:
        """The output [N, out, H, W], samples innermost, of a padded input and values [columns, 4]."""
        target = empty_innermost(source, self.geometry.samples, self.geometry.channels_out, self.geometry.out_size)
        shape = over_outputs(
            self.geometry, self._choice.forward, element_size=source.element_size(), streams=self._choice.streams
        )
        self._kernels.multiply_groups(shape, source, target, self._index, values)
        return target

    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor:
        """The gradient [N, in, H, W] of the input from the output's; samples are innermost, padding may lie between rows."""
        return self._gathered(gradient, values) if self.is_dense else self._spread(gradient, values)

    def _gathered(self, gradient: Tensor, values: Tensor) -> Tensor:
        indices, order = self._transposed
        transposed = values.view(-1).index_select(0, order)

        def multiply(phase: int, shape: Pass, source: Tensor, target: Tensor) -> None:
            self._kernels.multiply_groups(shape, source, target, indices[phase], transposed)

        return gradient_by_phase(self.geometry, self._choice, gradient, multiply)

    def _spread(self, gradient: Tensor, values: Tensor) -> Tensor:
        geometry = self.geometry
        (top, left), (height, width) = geometry.padding, geometry.size
        shape = over_outputs(geometry, self._choice.backward, element_size=gradient.element_size())
        make = torch.zeros
        if geometry.is_pointwise:
            make, shape.zeroed = torch.empty, geometry.channels_in * geometry.samples
        made = make(*geometry.padded, geometry.channels_in, geometry.samples, dtype=gradient.dtype)
        self._kernels.spread_groups(shape, made, padded(gradient, (0, 0), (0, 0)), self._index, values)
        return made[top : top + height, left : left + width].permute(3, 2, 0, 1)

    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        """The gradient [columns, 4] of the values from the padded input and the output's gradient."""
        shape = over_outputs(self.geometry, self._choice.weights, element_size=source.element_size())
        return self._kernels.correlate_groups(shape, source, padded(gradient, (0, 0), (0, 0)), self._index)
