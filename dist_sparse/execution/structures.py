"""What the kernels are told, as their C++ has it: structures of ``native/``, and the index structures of masks."""

import ctypes
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

STREAMED_SAMPLES = 16
"""What is written past the caches consists of whole vectors: this must divide the number of samples."""
LARGE = 8 * 2**20
"""Bytes, about what the caches do not keep until a tensor is read again: such results are written past them."""


class Pass(ctypes.Structure):
    """The positions that a kernel visits: ``struct Pass`` of ``native/passes.h``, which tells of each field."""

    _fields_ = (
        ("in_row", ctypes.c_int64),
        ("in_step", ctypes.c_int64),
        ("out_row", ctypes.c_int64),
        ("out_step", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("positions", ctypes.c_int32),
        ("samples", ctypes.c_int32),
        ("first_sample", ctypes.c_int32),
        ("last_sample", ctypes.c_int32),
        ("first_strip", ctypes.c_int64),
        ("last_strip", ctypes.c_int64),
        ("streams", ctypes.c_int32),
        ("zeroed", ctypes.c_int64),
        ("shared_rows", ctypes.c_int32),
        ("reach_rows", ctypes.c_int32),
        ("reach_row", ctypes.c_int64),
        ("reach_start", ctypes.c_int64),
        ("reach_bytes", ctypes.c_int64),
    )

    @property
    def strips(self) -> int:
        """All strips of the image."""
        return self.height * -(-self.width // self.positions)


class Rows(ctypes.Structure):
    """``struct Rows`` of ``native/rows.h``."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("blocks", ctypes.c_int32),
        ("narrow", ctypes.c_int32),
    )


class Plane(ctypes.Structure):
    """``struct Plane`` of ``native/norms.h``."""

    _fields_ = (
        ("width", ctypes.c_int32),
        ("channels", ctypes.c_int32),
        ("samples", ctypes.c_int32),
        ("first_row", ctypes.c_int32),
        ("last_row", ctypes.c_int32),
        ("behind", ctypes.c_int32),
        ("streams", ctypes.c_int32),
    )


class Axis(ctypes.Structure):
    """How windows lie along an axis: ``struct Axis`` of ``native/pooling.h``."""

    _fields_ = (
        ("size", ctypes.c_int32),
        ("results", ctypes.c_int32),
        ("kernel", ctypes.c_int32),
        ("stride", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("dilation", ctypes.c_int32),
    )


class Pool(ctypes.Structure):
    """``struct Pool`` of ``native/pooling.h``."""

    _fields_ = (
        ("rows", Axis),
        ("columns", Axis),
        ("first_row", ctypes.c_int32),
        ("last_row", ctypes.c_int32),
        ("panel", ctypes.c_int32),
        ("first", ctypes.c_int32),
        ("last", ctypes.c_int32),
        ("streams", ctypes.c_int32),
    )


class Blocks(ctypes.Structure):
    """``struct Blocks`` of ``native/transpose.h``."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int32),
        ("samples", ctypes.c_int32),
        ("first_block", ctypes.c_int64),
        ("last_block", ctypes.c_int64),
        ("streams", ctypes.c_int32),
    )


class Behind(IntEnum):
    """``enum Behind`` of ``native/norms.h``: what comes behind a batch norm and is computed with it."""

    NOTHING = 0
    RELU = 1
    SUM_AND_RELU = 2


class NormGradient(ctypes.Structure):
    """``struct NormGradient`` of ``native/norms.h``."""

    _fields_ = (
        ("gradient", ctypes.c_void_p),
        ("gradient_step", ctypes.c_int64),
        ("x", ctypes.c_void_p),
        ("row_step", ctypes.c_int64),
        ("scales", ctypes.c_void_p),
        ("shifts", ctypes.c_void_p),
        ("means", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("result_step", ctypes.c_int64),
        ("passed", ctypes.c_void_p),
    )


class Groups(ctypes.Structure):
    """``struct Groups`` of ``native/groups.h``."""

    _fields_ = (
        ("start", ctypes.c_void_p),
        ("offset", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("count", ctypes.c_int32),
        ("narrow", ctypes.c_int32),
    )


class Matrix(ctypes.Structure):
    """``struct Matrix`` of ``native/indices.h``."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("block", ctypes.c_int32),
        ("narrow", ctypes.c_int32),
    )


@dataclass(frozen=True, kw_only=True)
class RowIndex:
    """Rows of entries, each row in ``blocks``: ``start`` int32 [rows * blocks + 1], and the ``offset`` of each entry's input.

    Offsets count samples (an element's place is the offset times their number); they are uint16 where they fit, else int32.
    """

    start: Tensor
    offset: Tensor
    blocks: int

    def structure(self) -> Rows:
        """For a kernel."""
        count = (len(self.start) - 1) // self.blocks
        return Rows(self.start.data_ptr(), self.offset.data_ptr(), count, self.blocks, self.offset.element_size() == 2)

    def part(self, first: int, count: int) -> "RowIndex":
        """Some neighbouring rows."""
        start = self.start[first * self.blocks : (first + count) * self.blocks + 1]
        return RowIndex(start=start, offset=self.offset, blocks=self.blocks)


@dataclass(frozen=True, kw_only=True)
class GroupIndex:
    """Row groups: ``start`` int32 [groups + 1] and ``offset`` of columns, as in :class:`RowIndex`; ``rows`` int32 of each."""

    start: Tensor
    offset: Tensor
    rows: Tensor

    def structure(self) -> Groups:
        """For a kernel."""
        pointers = (each.data_ptr() for each in (self.start, self.offset, self.rows))
        return Groups(*pointers, len(self.start) - 1, self.offset.element_size() == 2)


def dtype_of_offsets(largest: int) -> torch.dtype:
    """The type of offsets up to the ``largest``."""
    return torch.uint16 if largest < 2**16 else torch.int32
