"""Max and average pooling of tensors whose samples are innermost; results and gradients are torch's."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.geometry import Pair, empty_innermost, is_innermost, rowwise
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.structures import LARGE, Axis, Pool
from dist_sparse.execution.threads import run, spans

_LINE = 64
"""Bytes of a cache's line."""
MOST_ELEMENTS = 256
"""The most elements of a window of max pooling, which remembers an element in a byte."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How the windows of a pooling lie; heights and widths as torch's modules have them."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    @property
    def elements(self) -> int:
        return self.kernel[0] * self.kernel[1]

    def over(self, images: Tensor) -> "Grid | None":
        """The windows over images [N, C, H, W]; None if the kernels do not take such ones, or torch refuses them."""
        rows, columns = (self._along(axis, images.shape[2 + axis]) for axis in range(2))
        return Grid(rows, columns) if rows is not None and columns is not None else None

    def _along(self, axis: int, size: int) -> Axis | None:
        kernel, stride, padding, dilation = (each[axis] for each in (self.kernel, self.stride, self.padding, self.dilation))
        if min(kernel, stride, dilation) < 1 or not 0 <= 2 * padding <= kernel:
            return None
        room = size + 2 * padding - dilation * (kernel - 1) - 1
        results = (room + (stride - 1 if self.ceil_mode else 0)) // stride + 1
        if self.ceil_mode and (results - 1) * stride >= size + padding:
            results -= 1  # the last window would begin behind the input
        made = Axis(size, results, kernel, stride, padding, dilation)
        return made if results > 0 and all(_within(made, result) for result in range(results)) else None


@dataclass(frozen=True)
class Grid:
    """The windows over images of one size."""

    rows: Axis
    columns: Axis

    def counts(self, *, include_padding: bool, divisor: int | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """What an average divides by: the product of one number a row of the results and one a column."""
        if divisor is not None:
            return like.new_full((self.rows.results,), divisor), like.new_ones(self.columns.results)
        rows, columns = (_lengths(axis, include_padding=include_padding) for axis in (self.rows, self.columns))
        return like.new_tensor(rows), like.new_tensor(columns)


def _starts(axis: Axis) -> range:
    return range(-axis.padding, axis.results * axis.stride - axis.padding, axis.stride)


def _within(axis: Axis, result: int) -> bool:
    """Whether an element of a window lies within the input."""
    start = result * axis.stride - axis.padding
    return any(0 <= start + element * axis.dilation < axis.size for element in range(axis.kernel))


def _lengths(axis: Axis, *, include_padding: bool) -> list[int]:
    """Elements of each window along an axis, with the zeros around the input or without; beyond these there are none."""
    pad = axis.padding if include_padding else 0
    ends = [(start, min(start + axis.kernel, axis.size + axis.padding)) for start in _starts(axis)]
    return [min(end, axis.size + pad) - max(start, -pad) for start, end in ends]


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, images: Tensor, grid: Grid, remembers: bool) -> Tensor:
        made = _results(images, grid)
        elements = made.new_empty(made.numel(), dtype=torch.uint8) if remembers else None
        pointers = images.data_ptr(), made.data_ptr(), None if elements is None else elements.data_ptr()
        run(kernels.kernel("max_pool", images), _parts(grid, grid.rows.results, made), *pointers)
        ctx.kernels, ctx.grid = kernels, grid
        ctx.save_for_backward(elements)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (elements,) = ctx.saved_tensors
        return None, _gradient("max_pool_gradient", ctx.kernels, gradient, ctx.grid, elements), None, None


class _AveragePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, images: Tensor, grid: Grid, counts: tuple[Tensor, Tensor]) -> Tensor:
        made = _results(images, grid)
        pointers = images.data_ptr(), *(each.data_ptr() for each in counts), made.data_ptr()
        run(kernels.kernel("average_pool", images), _parts(grid, grid.rows.results, made), *pointers)
        ctx.kernels, ctx.grid, ctx.counts = kernels, grid, counts
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, _gradient("average_pool_gradient", ctx.kernels, gradient, ctx.grid, *ctx.counts), None, None


def _results(images: Tensor, grid: Grid) -> Tensor:
    return empty_innermost(images, images.shape[0], images.shape[1], (grid.rows.results, grid.columns.results))


def _gradient(name: str, kernels: Kernels, gradient: Tensor, grid: Grid, *read: Tensor) -> Tensor:
    """The gradient of the images, by a kernel that reads the results' gradient and what else there is."""
    gradient = rowwise(gradient)
    made = empty_innermost(gradient, gradient.shape[0], gradient.shape[1], (grid.rows.size, grid.columns.size))
    pointers = gradient.data_ptr(), gradient.stride(2), *(each.data_ptr() for each in read), made.data_ptr()
    run(kernels.kernel(name, gradient), _parts(grid, grid.rows.size, made), *pointers)
    return made


def _parts(grid: Grid, rows: int, made: Tensor) -> list[Pool]:
    """For each thread some of the rows that are made; where these are few, some of what lies at each position."""
    panel, size = made.shape[0] * made.shape[1], made.element_size()
    streams = made.nbytes >= LARGE and panel * size % _LINE == 0
    by_row = rows >= 4 * torch.get_num_threads()
    of_rows, of_panel = (spans(rows), [(0, panel)]) if by_row else ([(0, rows)], spans(panel, _LINE))
    return [Pool(grid.rows, grid.columns, *part, panel, *numbers, streams) for part in of_rows for numbers in of_panel]


def max_pool(kernels: Kernels, images: Tensor, grid: Grid) -> Tensor:
    """The largest number of each window of ``images`` [N, C, H, W], samples innermost; so lies the result.

    As torch's, it is not a number where one of the window is not, and the first of several that are alike has the gradient.
    """
    assert is_innermost(images)
    remembers = torch.is_grad_enabled() and images.requires_grad
    return _MaxPool.apply(kernels, images, grid, remembers)  # pyright: ignore[reportReturnType]


def average_pool(kernels: Kernels, images: Tensor, grid: Grid, counts: tuple[Tensor, Tensor]) -> Tensor:
    """The mean of each window, whose sums are divided by :meth:`Grid.counts`, as :func:`max_pool`."""
    assert is_innermost(images)
    return _AveragePool.apply(kernels, images, grid, counts)  # pyright: ignore[reportReturnType]
