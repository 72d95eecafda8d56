"""Structures whose units compete with all others of their layer: one selection set, ``[1, U]``."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dist_sparse.sparsity.structures.base import Structure


class Unstructured(Structure):
    """Every weight is a unit of its own: (1, numel)."""

    name = form = example = "unstructured"
    unit, competitors = "one weight", "layer"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1, 1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


@dataclass(frozen=True)
class Block(Structure):
    """Tiles of the matrix [O, I * kh * kw]: (1, tiles), row of tiles after row of tiles.

    MEST's (arXiv 2110.14032) is 4x1: four consecutive output filters, one column.
    """

    rows: int
    columns: int

    name: ClassVar[str] = "block"
    form: ClassVar[str] = "block:ROWSxCOLUMNS"
    example: ClassVar[str] = "block:4x1"
    unit: ClassVar[str] = "a tile of 4 output filters x 1 column of the matrix [O, I*kh*kw]"
    competitors: ClassVar[str] = "layer"

    @classmethod
    def parse(cls, argument: str | None) -> "Block":
        rows, times, columns = (argument or "").partition("x")
        if not (times and rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns) > 0):
            raise ValueError("a block has two sides, whole numbers of 1 or more")
        if int(rows) == int(columns) == 1:
            raise ValueError("a block of one weight is structure unstructured")
        return cls(int(rows), int(columns))

    def split(self, tensor: Tensor) -> Tensor:
        tiles = tensor.reshape(len(tensor) // self.rows, self.rows, -1, self.columns).transpose(1, 2)
        return tiles.reshape(1, -1, self.rows * self.columns)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        tiles = units.reshape(shape[0] // self.rows, -1, self.rows, self.columns).transpose(1, 2)
        return tiles.reshape(shape)

    def misfit(self, shape: torch.Size) -> str | None:
        rows, columns = shape[0], shape[1:].numel()
        if rows % self.rows:
            return f"{rows} output filters do not divide by {self.rows}"
        if columns % self.columns:
            return f"{columns} columns (inputs x kernel) do not divide by {self.columns}"
        return None


class Kernel(Structure):
    """The kh * kw weights between one input and one output channel: (1, O * I).

    The kernel of a linear layer, as of a 1x1 convolution, is a single weight, so there this is ``unstructured``.
    """

    name = form = example = "kernel"
    unit, competitors = "a kernel (kh x kw; of a linear layer one weight)", "layer"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, len(tensor) * tensor.shape[1], -1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


class Filter(Structure):
    """All weights of one output channel, or neuron: (1, O).

    Only the weight is masked. The channel's own bias, and the norm that follows, stay and are trained: a dropped filter still
    gives the constant that they make of 0.
    """

    name = form = example = "filter"
    unit, competitors = "an output filter", "layer"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, len(tensor), -1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


class Channel(Structure):
    """All weights that read one input channel, ``w[:, i]``: (1, I).

    In a convolution of several groups it is the i-th input channel of every group. The layer that makes the channel, and its
    norm, stay as they are.
    """

    name = form = example = "channel"
    unit, competitors = "an input channel", "layer"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1).reshape(1, tensor.shape[1], -1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape[1], shape[0], *shape[2:]).transpose(0, 1)

    def misfit(self, shape: torch.Size) -> str | None:
        return "it has a single input channel" if shape[1] == 1 else None
