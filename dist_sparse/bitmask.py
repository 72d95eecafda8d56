"""Sparse weights as bits and values, in the layout that compressed-tensors publishes as ``sparse-bitmask``.

For the weight of a layer ``name``, a matrix of R rows and C columns:

- ``name.shape``, int64 [2]: R and C;
- ``name.bitmask``, uint8 [R, ceil(C / 8)]: column c of a row is bit c % 8 of its byte c // 8;
- ``name.compressed``: the values where a bit is set, row after row;
- ``name.row_offsets``, int64 [R]: where each row's values begin.

That layout pads the last dimension to bytes, which would waste most of a convolution's bits: its weight [O, I, h, w] is held as
the matrix [O, I * h * w]. A bit is set where the mask is, so an active weight of 0 is kept as such.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Size, Tensor

LAYOUT_KEY, LAYOUT = "layout", "sparse-bitmask"
"""What a file's metadata say of its layout."""
_PARTS = ("shape", "bitmask", "compressed", "row_offsets")


def compress(name: str, weight: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The parts of the weight of a ``name``, which is 0 outside of its mask, by theirs."""
    rows, name = mask.flatten(1), _layer(name)
    counts = rows.sum(1)
    return {
        f"{name}.shape": torch.tensor(rows.shape),
        f"{name}.bitmask": torch.from_numpy(np.packbits(rows.numpy(), axis=1, bitorder="little")),
        f"{name}.compressed": weight.detach().flatten(1)[rows],
        f"{name}.row_offsets": counts.cumsum(0) - counts,
    }


def decompress(name: str, part: Callable[[str], Tensor], shape: Size) -> tuple[Tensor, Tensor]:
    """A weight of ``shape``, and its mask, from what ``part`` gives for the names of :func:`compress`.

    Raises:
        ValueError: the parts do not belong together.
    """
    name = _layer(name)
    matrix, bits, values, offsets = (part(f"{name}.{each}") for each in _PARTS)
    rows, columns = shape[0], shape[1:].numel()
    if matrix.tolist() != [rows, columns]:
        raise ValueError(f"'{name}.shape' is {matrix.tolist()} instead of {[rows, columns]}")
    if bits.dtype != torch.uint8 or bits.shape != (rows, -(-columns // 8)):
        raise ValueError(f"'{name}.bitmask' is {list(bits.shape)} instead of {[rows, -(-columns // 8)]} bytes")
    unpacked = np.unpackbits(bits.numpy(), axis=1, bitorder="little")
    if unpacked[:, columns:].any():
        raise ValueError(f"'{name}.bitmask' has bits beyond its {columns} columns")
    mask = torch.from_numpy(unpacked[:, :columns].astype(bool))
    counts = mask.sum(1)
    if values.dim() != 1 or len(values) != int(counts.sum()):
        raise ValueError(f"'{name}.compressed' is {list(values.shape)} instead of [{int(counts.sum())}], the bits that are set")
    if not torch.equal(offsets, counts.cumsum(0) - counts):
        raise ValueError(f"'{name}.row_offsets' does not fit the bits")
    weight = values.new_zeros(mask.shape)
    weight[mask] = values
    return weight.view(shape), mask.view(shape)


def layers_in(names: Iterable[str]) -> list[str]:
    """The weights of which the tensors of these ``names`` are parts."""
    return [f"{layer}.weight" for layer, dot, part in (name.rpartition(".") for name in names) if dot and part == "bitmask"]


def _layer(weight: str) -> str:
    return weight.removesuffix(".weight")
