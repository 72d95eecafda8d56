"""A masked convolution by groups of 16 rows in Triton kernels, for CUDA. Not yet run on a GPU: tested in Triton's interpreter.

Tensors have any strides, and nothing is gathered into memory: a program reads the pixels of its places and columns where they
lie. Sums are made in one order, so that runs are alike, and in the values' own precision: fp32 without shortcuts, or fp64.
"""

from functools import cached_property
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Size, Tensor

from dist_sparse.execution.geometry import Geometry, Pair, is_channels_last
from dist_sparse.execution.products import Products, dense_weight_gradient
from dist_sparse.execution.wide_groups import ROWS, WideGroups

_PLACES, _COLUMNS = 64, 32
"""The size of a tile: positions of all samples' outputs or inputs, and columns of a group."""


@triton.jit
def _pixels(
    images, of_sample, of_channel, of_row, of_pixel, height, width, out_height, out_width, place, column, there,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    PY: tl.constexpr, PX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
):  # fmt: skip
    """What the output's places read of columns, [places, columns]; 0 beside the image, and of what is not ``there``."""
    sample, inner = place // (out_height * out_width), place % (out_height * out_width)
    y = (inner // out_width * SY - PY)[:, None] + (column // KW % KH * DY)[None, :]
    x = (inner % out_width * SX - PX)[:, None] + (column % KW * DX)[None, :]
    first = sample.to(tl.int64)[:, None] * of_sample + (column // (KH * KW)).to(tl.int64)[None, :] * of_channel
    inside = there & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return tl.load(images + first + y * of_row + x * of_pixel, mask=inside, other=0.0)


@triton.jit
def _forward(
    images, of_sample, of_channel, of_row, of_pixel, height, width,
    out, to_sample, to_channel, to_row, to_pixel, out_height, out_width, places,
    values, start, column, rows,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    PY: tl.constexpr, PX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    PLACES: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile of places of one group's 16 output channels."""
    place, row = tl.program_id(0) * PLACES + tl.arange(0, PLACES), tl.arange(0, ROWS)
    group = tl.program_id(1)
    end = tl.load(start + group + 1)
    total = tl.zeros((PLACES, ROWS), dtype=values.dtype.element_ty)
    for begin in range(tl.load(start + group), end, COLUMNS):
        entry = begin + tl.arange(0, COLUMNS)
        of_entry = tl.load(column + entry, mask=entry < end, other=0)
        there = (place < places)[:, None] & (entry < end)[None, :]
        pixels = _pixels(
            images, of_sample, of_channel, of_row, of_pixel, height, width, out_height, out_width, place, of_entry, there,
            KH, KW, SY, SX, PY, PX, DY, DX,
        )  # fmt: skip
        weights = tl.load(values + entry[:, None] * ROWS + row[None, :], mask=(entry < end)[:, None], other=0.0)
        total = tl.dot(pixels, weights, total, input_precision="ieee", out_dtype=total.dtype)
    sample, inner = place // (out_height * out_width), place % (out_height * out_width)
    at = sample.to(tl.int64) * to_sample + inner // out_width * to_row + inner % out_width * to_pixel
    channel = tl.load(rows + group * ROWS + row).to(tl.int64)
    tl.store(out + at[:, None] + channel[None, :] * to_channel, total, mask=(place < places)[:, None])


@triton.jit
def _backward_input(
    gradient, of_sample, of_channel, of_row, of_pixel, out_height, out_width,
    made, to_sample, to_channel, to_row, to_pixel, height, width, places,
    values, start, entries, column, group, rows,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    PY: tl.constexpr, PX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    PLACES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile of places of one input channel, by the list of its entries; channels do not share theirs, so nothing is tiled."""
    place, row = tl.program_id(0) * PLACES + tl.arange(0, PLACES), tl.arange(0, ROWS)
    channel = tl.program_id(1)
    sample, inner = (place // (height * width)).to(tl.int64), place % (height * width)
    y, x = inner // width, inner % width
    total = tl.zeros((PLACES,), dtype=values.dtype.element_ty)
    for number in range(tl.load(start + channel), tl.load(start + channel + 1)):
        entry = tl.load(entries + number)
        of_entry = tl.load(column + entry)
        down, right = y + PY - of_entry // KW % KH * DY, x + PX - of_entry % KW * DX
        reached = (down >= 0) & (down % SY == 0) & (down // SY < out_height)
        reached = reached & (right >= 0) & (right % SX == 0) & (right // SX < out_width) & (place < places)
        at = sample * of_sample + down // SY * of_row + right // SX * of_pixel
        out_channel = tl.load(rows + tl.load(group + entry) * ROWS + row).to(tl.int64)
        read = tl.load(gradient + at[:, None] + out_channel[None, :] * of_channel, mask=reached[:, None], other=0.0)
        total += tl.sum(read * tl.load(values + entry * ROWS + row)[None, :], 1)
    at = sample * to_sample + channel.to(tl.int64) * to_channel + y * to_row + x * to_pixel
    tl.store(made + at, total, mask=place < places)


@triton.jit
def _backward_weights(
    images, of_sample, of_channel, of_row, of_pixel, height, width,
    gradient, by_sample, by_channel, by_row, by_pixel, out_height, out_width, places,
    made, tiles, column, group, rows,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    PY: tl.constexpr, PX: tl.constexpr, DY: tl.constexpr, DX: tl.constexpr,
    PLACES: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile of columns of one group, over all places."""
    begin, end = tl.load(tiles + 2 * tl.program_id(0)), tl.load(tiles + 2 * tl.program_id(0) + 1)
    entry, row = begin + tl.arange(0, COLUMNS), tl.arange(0, ROWS)
    of_entry = tl.load(column + entry, mask=entry < end, other=0)
    channel = tl.load(rows + tl.load(group + begin) * ROWS + row).to(tl.int64)
    total = tl.zeros((COLUMNS, ROWS), dtype=made.dtype.element_ty)
    for first in range(0, places, PLACES):
        place = first + tl.arange(0, PLACES)
        there = (place < places)[:, None] & (entry < end)[None, :]
        pixels = _pixels(
            images, of_sample, of_channel, of_row, of_pixel, height, width, out_height, out_width, place, of_entry, there,
            KH, KW, SY, SX, PY, PX, DY, DX,
        )  # fmt: skip
        sample, inner = place // (out_height * out_width), place % (out_height * out_width)
        at = sample.to(tl.int64) * by_sample + inner // out_width * by_row + inner % out_width * by_pixel
        read = tl.load(gradient + at[:, None] + channel[None, :] * by_channel, mask=(place < places)[:, None], other=0.0)
        total = tl.dot(tl.trans(pixels), read, total, input_precision="ieee", out_dtype=total.dtype)
    tl.store(made + entry[:, None] * ROWS + row[None, :], total, mask=(entry < end)[:, None])


class TritonGroups(Products):
    """The products of one mask in one geometry; values are [columns, 16], as :class:`.wide_groups.WideGroups` has them."""

    def __init__(self, groups: WideGroups, geometry: Geometry) -> None:
        self.geometry, self._groups = geometry, groups
        self._positions = groups.positions(geometry.columns)
        names = "KH", "KW", "SY", "SX", "PY", "PX", "DY", "DX"
        how = *geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation
        self._constants = dict(zip(names, how, strict=True))

    @property
    def positions(self) -> Tensor:
        return self._positions

    @cached_property
    def _by_channel(self) -> tuple[Tensor, Tensor]:
        """The transposed lists: where those of each input channel begin, int32 [in + 1], and the columns' numbers, int32."""
        channel = self._groups.column // (self.geometry.kernel[0] * self.geometry.kernel[1])
        ordered, entries = channel.sort(stable=True)
        every = torch.arange(self.geometry.channels_in + 1, dtype=torch.int32, device=channel.device)
        return torch.searchsorted(ordered, every).int(), entries.int()

    @cached_property
    def _tiles(self) -> Tensor:
        """Where columns that one program takes begin and end: int32 [tiles, 2]."""
        tiles = [(at, min(at + _COLUMNS, end)) for begin, end in self._groups.spans for at in range(begin, end, _COLUMNS)]
        return torch.tensor(tiles, dtype=torch.int32, device=self._groups.column.device).view(-1, 2)

    @property
    def index_bytes(self) -> int:
        groups = self._groups
        held = [self._positions, groups.rows, groups.start, groups.column, groups.group, self._tiles, *self._by_channel]
        return sum(each.numel() * each.element_size() for each in held)

    def source(self, images: Tensor) -> Tensor:
        return images

    def gradient(self, gradient: Tensor) -> Tensor:
        return gradient

    def forward(self, source: Tensor, values: Tensor) -> Tensor:
        geometry, groups = self.geometry, self._groups
        size = source.shape[2:] if geometry.is_pointwise else geometry.out_size
        out = _empty(source, geometry.channels_out, size)
        if places := len(out) * size[0] * size[1]:
            _launch(
                _forward, (triton.cdiv(places, _PLACES), len(groups.rows)),
                source, *source.stride(), *source.shape[2:], out, *out.stride(), *size, places,
                values, groups.start, groups.column, groups.rows,
                **self._constants, PLACES=_PLACES, COLUMNS=_COLUMNS, ROWS=ROWS,
            )  # fmt: skip
        return out

    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor:
        geometry, groups = self.geometry, self._groups
        size = gradient.shape[2:] if geometry.is_pointwise else geometry.size
        made = _empty(gradient, geometry.channels_in, size)
        if places := len(made) * size[0] * size[1]:
            start, entries = self._by_channel
            _launch(
                _backward_input, (triton.cdiv(places, _PLACES), geometry.channels_in),
                gradient, *gradient.stride(), *gradient.shape[2:], made, *made.stride(), *size, places,
                values, start, entries, groups.column, groups.group, groups.rows,
                **self._constants, PLACES=_PLACES, ROWS=ROWS,
            )  # fmt: skip
        return made

    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        groups, made = self._groups, source.new_empty(self._positions.shape)
        if tiles := len(self._tiles):
            size = gradient.shape[2:]
            _launch(
                _backward_weights, (tiles,),
                source, *source.stride(), *source.shape[2:], gradient, *gradient.stride(), *size, len(gradient) * size.numel(),
                made, self._tiles, groups.column, groups.group, groups.rows,
                **self._constants, PLACES=_PLACES, COLUMNS=_COLUMNS, ROWS=ROWS,
            )  # fmt: skip
        return made

    def backward_all_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        return dense_weight_gradient(self.geometry, source, gradient, self.geometry.padding)


def _empty(like: Tensor, channels: int, size: Pair | Size) -> Tensor:
    """Memory for as many images as another tensor has, in its format."""
    memory = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(len(like), channels, *size, dtype=like.dtype, device=like.device, memory_format=memory)


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: int) -> None:
    """Triton calls a kernel with a grid in brackets, which is beyond what types can say."""
    kernel[grid](*arguments, **constants)
