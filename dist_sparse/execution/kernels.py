"""The kernels' library, loaded and called: tensors in, tensors out, one method a kernel."""

import ctypes
import functools
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_sparse.errors import one_line
from dist_sparse.execution.compiling import NoKernels, compiled
from dist_sparse.execution.geometry import empty_innermost, is_innermost
from dist_sparse.execution.signatures import KERNELS, POINTER
from dist_sparse.execution.structures import (
    LARGE,
    STREAMED_SAMPLES,
    Behind,
    Blocks,
    GroupIndex,
    Matrix,
    NormGradient,
    Pass,
    Plane,
    RowIndex,
    dtype_of_offsets,
)
from dist_sparse.execution.threads import parts_of_strips, parts_to_add_up, run, spans

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
DTYPES = frozenset(_SUFFIX)
"""The types of tensors that kernels take."""
_LINE, _MOST_CACHED = 64, 1 << 20
"""Bytes of a cache's line, and of a result that stays in the second cache."""


class Kernels:
    """A compiled library. Tensors lie as ``native/passes.h`` says; results are the same from run to run on as many threads."""

    def __init__(self, path: Path) -> None:
        """Load a library that :func:`.compiling.compiled` has made.

        Raises:
            NoKernels: this machine cannot load it.
        """
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise NoKernels(f"the compiled kernels cannot be loaded: {one_line(error)}") from error
        for (kernel, arguments), suffix in itertools.product(KERNELS.items(), _SUFFIX.values()):
            function = getattr(self._library, f"{kernel}_{suffix}")
            function.argtypes, function.restype = arguments, None
        self._library.hash_rows_of_mask.restype = ctypes.c_int64
        self._library.index_rows_of_bits.argtypes = (POINTER, Matrix, *[POINTER] * 4)
        self._library.index_rows_by_key.argtypes = (
            POINTER,
            ctypes.c_int32,
            Matrix,
            POINTER,
            ctypes.c_int32,
            *[POINTER] * 4,
        )

    def __deepcopy__(self, memo: object) -> "Kernels":
        """A copy of a network computes by the same library."""
        return self

    def multiply_rows(self, shape: Pass, source: Tensor, target: Tensor, index: RowIndex, values: Tensor) -> None:
        """``target[position, row]`` becomes the sum over the row's entries of ``value * source[position + offset]``."""
        _by_strips(shape, self.kernel("multiply_rows", source), source, target, index.structure(), values)

    def correlate_rows(self, shape: Pass, source: Tensor, gradient: Tensor, index: RowIndex) -> Tensor:
        """Each entry's sum over positions and samples of ``gradient[position, row] * source[position + offset]``."""
        return _summed(shape, self.kernel("correlate_rows", source), source, gradient, index.structure(), (len(index.offset),))

    def multiply_groups(self, shape: Pass, source: Tensor, target: Tensor, index: GroupIndex, values: Tensor) -> None:
        """As :meth:`multiply_rows`, of values [columns, 4]."""
        _by_strips(shape, self.kernel("multiply_groups", source), source, target, index.structure(), values)

    def spread_groups(self, shape: Pass, source_gradient: Tensor, gradient: Tensor, index: GroupIndex, values: Tensor) -> None:
        """``source_gradient[position + offset]`` becomes the gradient of the source of a multiplication.

        It is of zeros before, unless each position has ``shape.zeroed`` elements of its own: those need not be zeros.
        """
        kernel, arguments = self.kernel("spread_groups", gradient), (index.structure(), values.data_ptr())
        parts = parts_of_strips(shape) if shape.zeroed else parts_to_add_up(shape)
        run(kernel, parts, source_gradient.data_ptr(), gradient.data_ptr(), *arguments)

    def correlate_groups(self, shape: Pass, source: Tensor, gradient: Tensor, index: GroupIndex) -> Tensor:
        """As :meth:`correlate_rows`, of each column [columns, 4]."""
        size = (len(index.offset), 4)
        return _summed(shape, self.kernel("correlate_groups", source), source, gradient, index.structure(), size)

    def index_rows(
        self, packed: Tensor, size: tuple[int, int], active: int, offset_of_column: Tensor, block: int
    ) -> tuple[RowIndex, Tensor]:
        """The entries of a matrix of this size from its packed mask (uint8), in blocks of columns.

        Returns:
            Their index, and each one's place in the flattened matrix (int32).
        """
        rows, columns = size
        blocks = -(-columns // block)
        offset = _offsets(active, int(offset_of_column.max()))
        start, position = torch.empty(rows * blocks + 1, dtype=torch.int32), torch.empty(active, dtype=torch.int32)
        matrix = Matrix(rows, columns, block, offset.element_size() == 2)
        made = (_pointer(each) for each in (offset_of_column, start, position, offset))
        self._library.index_rows_of_bits(_pointer(packed), matrix, *made)
        return RowIndex(start=start, offset=offset, blocks=blocks), position

    def index_by_key(
        self, position: Tensor, size: tuple[int, int], keys: tuple[Tensor, int], offset_of_column: Tensor, block: int
    ) -> tuple[RowIndex, Tensor]:
        """The entries of :meth:`index_rows` by another key, in blocks of rows.

        Args:
            position: the places that :meth:`index_rows` gave.
            keys: of each column, and how many there are.
            offset_of_column: an entry's row is added.

        Returns:
            Their index, and each one's number before (int32).
        """
        rows, columns = size
        blocks = -(-rows // block)
        offset = _offsets(len(position), int(offset_of_column.max()) + rows - 1)
        start, entry = torch.empty(keys[1] * blocks + 1, dtype=torch.int32), torch.empty_like(position)
        matrix = Matrix(rows, columns, block, offset.element_size() == 2)
        by = _pointer(keys[0]), keys[1], _pointer(offset_of_column)
        made = (_pointer(each) for each in (start, entry, offset))
        self._library.index_rows_by_key(_pointer(position), len(position), matrix, *by, *made)
        return RowIndex(start=start, offset=offset, blocks=blocks), entry

    def hash_rows(self, mask: Tensor) -> tuple[Tensor, int]:
        """A number (int64) for each row of a bool matrix, the same for equal rows; and how many entries are active."""
        hashes = torch.empty(len(mask), dtype=torch.int64)
        active = self._library.hash_rows_of_mask(_pointer(mask), *mask.shape, _pointer(hashes))
        return hashes, active

    def columns_of_groups(self, mask: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The columns in which any of a group's rows (int32 [groups, 4]) is active, int32: ``start`` [groups + 1], columns."""
        groups, columns = len(rows), mask.shape[1]
        start, column = torch.empty(groups + 1, dtype=torch.int32), torch.empty(groups * columns, dtype=torch.int32)
        made = _pointer(start), _pointer(column)
        count = self._library.columns_of_groups(_pointer(mask), _pointer(rows), groups, columns, *made)
        return start, column[:count]

    def rows_to_blocks(self, rows: Tensor, samples: int) -> Tensor:
        """Blocks [blocks, columns, samples] of rows [rows, columns], ``samples`` a block; in the last one zeros may follow."""
        made = _empty_blocks(rows, samples)
        parts = _blocks(made, len(rows), made)
        run(self.kernel("rows_to_blocks", rows), parts, _pointer(rows), made.data_ptr(), None, 0)
        return made

    def rows_to_blocks_and_sums(self, rows: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        """As :meth:`rows_to_blocks`, and each column's sum: of each thread one, added in the threads' order."""
        made = _empty_blocks(rows, samples)
        parts = _blocks(made, len(rows), made)
        sums = torch.zeros(len(parts), rows.shape[1], dtype=torch.float64)
        pointers = _pointer(rows), made.data_ptr(), sums.data_ptr()
        run(self.kernel("rows_to_blocks", rows), parts, *pointers, sums.stride(0))
        return made, sums.sum(0).to(rows.dtype)

    def blocks_to_rows(self, blocks: Tensor, rows: int, bias: Tensor | None) -> Tensor:
        """The first ``rows`` rows [rows, columns] of what :meth:`rows_to_blocks` makes, plus a bias [columns]."""
        made = blocks.new_empty(rows, blocks.shape[1])
        pointers = _pointer(blocks), None if bias is None else _pointer(bias), made.data_ptr()
        run(self.kernel("blocks_to_rows", blocks), _blocks(blocks, rows, made), *pointers)
        return made

    def channel_statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, float64 [C] each, of images [N, C, H, W] with samples innermost."""
        rows = _rows_of(images)
        shift = rows[0, 0, :, 0].clone()
        sums = self._channel_sums("norm_sums", images, (rows.data_ptr(), rows.stride(0), shift.data_ptr()), Behind.NOTHING)
        count = images.numel() // images.shape[1]
        mean = sums[0] / count
        return mean + shift, (sums[1] / count - mean.square()).clamp(min=0)

    def scale_and_shift(
        self, images: Tensor, scale: Tensor, shift: Tensor, *, relu: bool, residual: Tensor | None = None
    ) -> Tensor:
        """``images * scale + shift`` by channel, and 0 where that is negative with ``relu``; samples innermost.

        A ``residual``, of the images' shape, is added before the ReLU.
        """
        assert relu or residual is None
        rows, made = _rows_of(images), _like(images)
        factors = [each.to(images.dtype) for each in (scale, shift)]
        pointers = (rows.data_ptr(), rows.stride(0), *(each.data_ptr() for each in factors), *_rows_at(residual))
        behind = Behind.SUM_AND_RELU if residual is not None else Behind.RELU if relu else Behind.NOTHING
        run(self.kernel("norm_apply", images), _planes(images, behind), *pointers, made.data_ptr())
        return made

    def gradient_sums(self, gradient: Tensor, images: Tensor, relu: tuple[Tensor, Tensor] | None, mean: Tensor) -> Tensor:
        """By channel, float64 [2, C]: the sum of the gradient, and of its products with ``images - mean``.

        ``relu`` is the scale and the shift behind which there was a ReLU: where that has made 0, the gradient is 0.
        """
        source, _kept = _norm_gradient(gradient, images, relu, mean)
        return self._channel_sums("norm_gradient_sums", images, (source,), _relu(relu))

    def gradient_before_relu(self, gradient: Tensor, images: Tensor, result: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of what a ReLU with this ``result`` got, and the sums of it as :meth:`gradient_sums` has them."""
        made = _like(images)
        source, _kept = _norm_gradient(gradient, images, None, mean)
        source.result, source.result_step = _rows_at(result)
        source.passed = made.data_ptr()
        return made, self._channel_sums("norm_gradient_sums", images, (source,), Behind.SUM_AND_RELU)

    def gradient_of_norm(
        self,
        gradient: Tensor,
        images: Tensor,
        relu: tuple[Tensor, Tensor] | None,
        mean: Tensor,
        factors: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """``gradient * factors[0] + (images - mean) * factors[1] + factors[2]`` by channel.

        ``relu`` is as in :meth:`gradient_sums`.
        """
        made = _like(images)
        source, _kept = _norm_gradient(gradient, images, relu, mean)
        typed = [each.to(images.dtype) for each in factors]
        pointers = (source, *(each.data_ptr() for each in typed), made.data_ptr())
        run(self.kernel("norm_gradient_apply", images), _planes(images, _relu(relu)), *pointers)
        return made

    def _channel_sums(self, kernel: str, images: Tensor, pointers: tuple[Any, ...], behind: Behind) -> Tensor:
        """Two sums by channel, of each thread one, added in the threads' order."""
        parts = _planes(images, behind)
        sums = torch.zeros(len(parts), 2, images.shape[1], dtype=torch.float64)
        run(self.kernel(kernel, images), parts, *pointers, sums.data_ptr(), sums.stride(0))
        return sums.sum(0)

    def kernel(self, name: str, tensor: Tensor) -> Any:
        """The C function of this name for a tensor's type of numbers."""
        return getattr(self._library, f"{name}_{_SUFFIX[tensor.dtype]}")


def takes(images: Tensor) -> bool:
    """Whether kernels take images [N, C, H, W] as they lie; not those on other devices, which may be shapes alone."""
    taken = images.device.type == "cpu" and images.dtype in DTYPES and images.dim() == 4 and images.numel() > 0
    return taken and is_innermost(images)


@functools.cache
def kernels() -> Kernels:
    """The library for this machine, compiled at the first call unless its cache holds it.

    Raises:
        NoKernels: it cannot be had.
    """
    return Kernels(compiled())


def _by_strips(shape: Pass, kernel: Any, source: Tensor, target: Tensor, index: ctypes.Structure, values: Tensor) -> None:
    run(kernel, parts_of_strips(shape), source.data_ptr(), target.data_ptr(), index, values.data_ptr())


def _summed(
    shape: Pass, kernel: Any, source: Tensor, gradient: Tensor, index: ctypes.Structure, size: tuple[int, ...]
) -> Tensor:
    """One sum for each thread, added in the threads' order: the same from run to run."""
    parts = parts_of_strips(shape)
    sums = source.new_zeros(len(parts), *size)
    run(kernel, parts, source.data_ptr(), gradient.data_ptr(), index, sums.data_ptr(), sums.stride(0))
    for other in sums[1:]:
        sums[0] += other
    return sums[0]


def _rows_of(images: Tensor) -> Tensor:
    """Images as they lie, [H, W, C, N]; something may lie between the rows."""
    rows = images.permute(2, 3, 1, 0)
    assert rows[0].is_contiguous()
    return rows


def _like(images: Tensor) -> Tensor:
    count, channels, height, width = images.shape
    return empty_innermost(images, count, channels, (height, width))


def _norm_gradient(
    gradient: Tensor, images: Tensor, relu: tuple[Tensor, Tensor] | None, mean: Tensor
) -> tuple[NormGradient, list[Tensor]]:
    """What the gradient's kernels read, and the tensors of it that must be kept as long."""
    kept = [each.to(images.dtype) for each in (*(relu or (mean, mean)), mean)]
    return NormGradient(*_rows_at(gradient), *_rows_at(images), *(each.data_ptr() for each in kept)), kept


def _rows_at(images: Tensor | None) -> tuple[int | None, int]:
    """Where images lie, and how far it is from row to row."""
    return (None, 0) if images is None else (images.data_ptr(), _rows_of(images).stride(0))


def _relu(factors: object | None) -> Behind:
    return Behind.NOTHING if factors is None else Behind.RELU


def _planes(images: Tensor, behind: Behind) -> list[Plane]:
    count, channels, height, width = images.shape
    streams = images.numel() * images.element_size() >= LARGE and count % STREAMED_SAMPLES == 0
    return [Plane(width, channels, count, first, last, behind, streams) for first, last in spans(height)]


def _offsets(count: int, largest: int) -> Tensor:
    return torch.empty(count, dtype=dtype_of_offsets(largest))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())


def _empty_blocks(rows: Tensor, samples: int) -> Tensor:
    return rows.new_empty(-(-len(rows) // samples), rows.shape[1], samples)


def _blocks(blocks: Tensor, rows: int, made: Tensor) -> list[Blocks]:
    """All blocks, for each thread some; what is made goes past the caches if it is larger and in whole lines of theirs."""
    count, columns, samples = blocks.shape
    aligned = not (made.data_ptr() % _LINE or made.shape[-1] * made.element_size() % _LINE)
    streams = aligned and made.nbytes > _MOST_CACHED
    return [Blocks(rows, columns, samples, first, last, streams) for first, last in spans(count)]
