"""Where a convolution's products lie in tensors whose samples are innermost; a linear layer is a 1x1 convolution of tokens.

A tensor of logical shape [N, C, H, W] has the memory of a contiguous [H, W, C, N]: :func:`innermost` and :func:`is_innermost`.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Phase:
    """The positions of the input, one in ``stride``, to which the same kernel elements bring their gradients."""

    row: int
    column: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A convolution over inputs of one size; the order of a column (a weight within its row) is [in, height, width]."""

    channels_in: int
    channels_out: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    size: Pair
    """Height and width of the input."""
    samples: int

    @cached_property
    def out_size(self) -> Pair:
        """Height and width of the output."""
        reach = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        sides = zip(self.size, self.padding, reach, self.stride, strict=True)
        height, width = ((size + 2 * pad - extent) // step + 1 for size, pad, extent, step in sides)
        return height, width

    @cached_property
    def columns(self) -> int:
        """Weights of an output channel."""
        return self.channels_in * self.kernel[0] * self.kernel[1]

    @cached_property
    def padded(self) -> Pair:
        """Height and width of the input between its zeros."""
        return self.size[0] + 2 * self.padding[0], self.size[1] + 2 * self.padding[1]

    @cached_property
    def offsets(self) -> Tensor:
        """Where each column's input lies, from an output's position in the padded input, in samples: int32 [columns]."""
        channel, down, right = self._column_parts()
        across = self.padded[1]
        return ((down * self.dilation[0] * across + right * self.dilation[1]) * self.channels_in + channel).int()

    @cached_property
    def is_pointwise(self) -> bool:
        """Whether an output depends on the input at its own position alone: positions are then as good as in one row."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    @cached_property
    def phases(self) -> list[Phase]:
        """The positions of the input in groups; a group that no kernel element reaches is one as well."""
        return [
            Phase(row, column, -(-(self.size[0] - row) // self.stride[0]), -(-(self.size[1] - column) // self.stride[1]))
            for row, column in itertools.product(range(self.stride[0]), range(self.stride[1]))
        ]

    @cached_property
    def margins(self) -> tuple[Pair, Pair]:
        """Zeros before and behind the output's gradient, in rows and in columns, so that every phase stays inside."""
        made = []
        for axis in range(2):
            shifts = self.shifts(axis)
            longest = -(-self.size[axis] // self.stride[axis])
            made.append((max(0, -min(shifts)), max(0, longest + max(shifts) - self.out_size[axis])))
        return made[0], made[1]

    @cached_property
    def keys(self) -> Tensor:
        """Phase and input channel of each column as one number, the phase first: int32 [columns]."""
        channel, down, right = self._column_parts()
        rows, columns = (torch.tensor(self._phases_of(axis)) for axis in range(2))
        phase = rows[down] * self.stride[1] + columns[right]
        return (phase * self.channels_in + channel).int()

    @cached_property
    def gradient_offsets(self) -> Tensor:
        """Where each column's output gradient of channel 0 lies, from a phase's position, in samples: int32 [columns]."""
        _, down, right = self._column_parts()
        rows, columns = (torch.tensor(self.shifts(axis)) + self.margins[axis][0] for axis in range(2))
        across = self.out_size[1] + sum(self.margins[1])
        return ((rows[down] * across + columns[right]) * self.channels_out).int()

    def _column_parts(self) -> tuple[Tensor, Tensor, Tensor]:
        column = torch.arange(self.columns)
        height, width = self.kernel
        return column // (height * width), column // width % height, column % width

    def _phases_of(self, axis: int) -> list[int]:
        """By kernel element along an axis: the input's position, modulo the stride, that it brings a gradient to."""
        return [
            (element * self.dilation[axis] - self.padding[axis]) % self.stride[axis] for element in range(self.kernel[axis])
        ]

    def shifts(self, axis: int) -> list[int]:
        """By kernel element along an axis: from a phase's position to the output's position whose gradient it gets."""
        return [
            (phase + self.padding[axis] - element * self.dilation[axis]) // self.stride[axis]
            for element, phase in enumerate(self._phases_of(axis))
        ]


def is_innermost(tensor: Tensor) -> bool:
    """Whether a tensor [N, C, H, W] has its samples innermost in memory."""
    return tensor.permute(2, 3, 1, 0).is_contiguous()


def innermost(tensor: Tensor) -> Tensor:
    """The same tensor with its samples innermost in memory; itself if it is so."""
    if is_innermost(tensor) or not is_channels_last(tensor):
        return tensor.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    count, channels, height, width = tensor.shape
    by_sample = tensor.permute(0, 2, 3, 1).view(count, -1)  # torch transposes matrices faster than it copies other strides
    return by_sample.t().contiguous().view(height, width, channels, count).permute(3, 2, 0, 1)


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor [N, C, H, W] has its channels innermost in memory."""
    return tensor.is_contiguous(memory_format=torch.channels_last)


def channels_last(tensor: Tensor) -> Tensor:
    """A tensor with samples innermost as one with channels innermost; itself if it is so."""
    if is_channels_last(tensor):
        return tensor
    count, channels, height, width = tensor.shape
    by_place = tensor.permute(2, 3, 1, 0).reshape(-1, count)
    return by_place.t().contiguous().view(count, height, width, channels).permute(0, 3, 1, 2)


def empty_innermost(like: Tensor, count: int, channels: int, size: Pair) -> Tensor:
    """Memory for a tensor [N, C, H, W] with samples innermost; no view of another, so that it may be changed in place."""
    height, width = size
    strides = (1, count, width * channels * count, channels * count)
    return like.new_empty_strided((count, channels, height, width), strides)


def rowwise(tensor: Tensor) -> Tensor:
    """A tensor whose samples are innermost, with whole rows; something may lie between the rows."""
    return tensor if tensor.permute(2, 3, 1, 0)[0].is_contiguous() else innermost(tensor)


def padded(tensor: Tensor, rows: Pair, columns: Pair) -> Tensor:
    """A tensor with samples innermost between zeros, as its memory lies: [height, width, C, N]."""
    inner = tensor.permute(2, 3, 1, 0)
    if not any((*rows, *columns)):
        return inner.contiguous()
    height, width = inner.shape[:2]
    made = inner.new_empty(height + sum(rows), width + sum(columns), *inner.shape[2:])
    made[: rows[0]].zero_()
    made[rows[0] + height :].zero_()
    made[rows[0] : rows[0] + height, : columns[0]].zero_()
    made[rows[0] : rows[0] + height, columns[0] + width :].zero_()
    made[rows[0] : rows[0] + height, columns[0] : columns[0] + width] = inner
    return made
