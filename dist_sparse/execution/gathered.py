"""A masked convolution in plain torch, by groups of 16 rows: their columns are gathered, and a dense product does the rest.

Images become a matrix [columns, places] whose rows are a weight's columns and whose places are those of the output in all
samples: for kernels larger than 1x1 that takes as many times an input's memory as a kernel has elements, while a pass lasts.
Groups are multiplied one after another, so that what is gathered stays in the caches, and may have any number of columns.
Results have their channels last.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from dist_sparse.execution.geometry import Geometry, is_channels_last
from dist_sparse.execution.products import Products, dense_weight_gradient
from dist_sparse.execution.wide_groups import ROWS, WideGroups


class Gathered(Products):
    """The products of one mask in one geometry; values are [columns, 16], as :class:`.wide_groups.WideGroups` has them."""

    def __init__(self, groups: WideGroups, geometry: Geometry) -> None:
        self.geometry = geometry
        self._positions = groups.positions(geometry.columns)
        self._columns = [groups.column[begin:end] for begin, end in groups.spans]
        self._spans = groups.spans
        self._order = groups.rows.view(-1).long()
        self._place = self._order.argsort()

    @property
    def positions(self) -> Tensor:
        return self._positions

    @property
    def index_bytes(self) -> int:
        held = [self._positions, *self._columns, self._order, self._place]
        return sum(each.numel() * each.element_size() for each in held)

    def source(self, images: Tensor) -> Tensor:
        """Channel by channel, between their zeros: [in, N, height, width]."""
        count, channels, *size = images.shape
        if is_channels_last(images):  # torch transposes matrices faster than it copies other strides
            by_channel = images.permute(0, 2, 3, 1).reshape(-1, channels).t().contiguous().view(channels, count, *size)
        else:
            by_channel = images.transpose(0, 1)
        top, left = self.geometry.padding
        return F.pad(by_channel, (left, left, top, top)) if top or left else by_channel.contiguous()

    def gradient(self, gradient: Tensor) -> Tensor:
        """By group: [groups, N, H, W, 16]."""
        by_place = gradient.permute(0, 2, 3, 1)
        grouped = by_place.reshape(-1, self.geometry.channels_out).index_select(1, self._order)
        return grouped.view(*by_place.shape[:3], len(self._spans), ROWS).permute(3, 0, 1, 2, 4).contiguous()

    def forward(self, source: Tensor, values: Tensor) -> Tensor:
        columns, geometry = self._by_column(source), self.geometry
        made = values.new_empty(columns.shape[1], geometry.channels_out)
        for group, (of_group, gathered) in enumerate(self._each(values, columns)):
            # Into given memory: autocast, which may be on here, leaves such products as they are.
            torch.mm(gathered.t(), of_group, out=made[:, group * ROWS : (group + 1) * ROWS])
        count, *size = source.shape[1:] if geometry.is_pointwise else (source.shape[1], *geometry.out_size)
        shape = count, geometry.channels_out, *size
        # No view of another tensor, so that it may be changed in place.
        out = torch.empty(shape, dtype=made.dtype, device=made.device, memory_format=torch.channels_last)
        torch.index_select(made, 1, self._place, out=out.permute(0, 2, 3, 1).view(made.shape))
        return out

    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor:
        shape = gradient.shape[1:4]
        made = values.new_zeros(self.geometry.columns, shape.numel())
        for of_group, column, (begin, end) in zip(gradient, self._columns, self._spans, strict=True):
            made.index_add_(0, column, values[begin:end] @ of_group.view(-1, ROWS).t())
        return self._by_image(made, shape)

    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        columns = self._by_column(source)
        made = columns.new_empty(self._positions.shape)
        for of_group, (of_values, gathered) in zip(gradient, self._each(made, columns), strict=True):
            torch.mm(gathered, of_group.view(-1, ROWS), out=of_values)
        return made

    def backward_all_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        return dense_weight_gradient(self.geometry, source.transpose(0, 1), gradient, padding=(0, 0))

    def _each(self, values: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The values of each group, and the rows of ``columns`` that go with them."""
        for (begin, end), column in zip(self._spans, self._columns, strict=True):
            yield values[begin:end], columns.index_select(0, column)

    def _by_column(self, source: Tensor) -> Tensor:
        """The matrix [columns, places]."""
        if self.geometry.is_pointwise:
            return source.view(len(source), source[0].numel())
        return torch.stack([source[window] for window in self._windows()], 1).view(self.geometry.columns, -1)

    def _by_image(self, columns: Tensor, shape: torch.Size) -> Tensor:
        """The way back, with the sum of what several columns have of a pixel; the output's ``shape`` is [N, H, W]."""
        geometry = self.geometry
        if geometry.is_pointwise:
            by_channel = columns.view(geometry.channels_in, *shape)
        else:
            padded = columns.new_zeros(geometry.channels_in, shape[0], *geometry.padded)
            by_element = columns.view(geometry.channels_in, -1, *shape)
            for element, window in enumerate(self._windows()):
                padded[window] += by_element[:, element]
            (top, left), (height, width) = geometry.padding, geometry.size
            by_channel = padded[:, :, top : top + height, left : left + width]
        _, count, height, width = by_channel.shape
        by_place = by_channel.reshape(geometry.channels_in, count * height * width).t().contiguous()
        return by_place.view(count, height, width, geometry.channels_in).permute(0, 3, 1, 2)

    def _windows(self) -> Iterator[tuple[slice, ...]]:
        """By kernel element, where padded images [..., H, W] meet it."""
        geometry, every = self.geometry, slice(None)
        for down in range(geometry.kernel[0]):
            for right in range(geometry.kernel[1]):
                sides = zip((down, right), geometry.dilation, geometry.stride, geometry.out_size, strict=True)
                yield (
                    every,
                    every,
                    *(
                        slice(element * dilation, element * dilation + step * (size - 1) + 1, step)
                        for element, dilation, step, size in sides
                    ),
                )
