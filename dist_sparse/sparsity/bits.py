"""Masks as bits: one bit a weight, for checkpoints, to be sent, and for digests."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy
import torch
from torch import Tensor

# Eight 0/1 bytes seen as one little-endian integer, times this number, have their eight bits in the top byte:
# byte i is shifted to bit 56 + i by the factor's term 2**(56 - 7 * i), and no two terms meet.
_GATHER = sum(1 << (56 - 7 * i) for i in range(8))

# The way back: eight copies of a byte in an integer, and of copy i the bit i. (Bit 63 of an int64 is its sign.)
_SPREAD = 0x0101010101010101
_DIAGONAL = 0x8040201008040201 - (1 << 64)


def pack(mask: Tensor) -> Tensor:
    """Bits of a bool tensor of any shape as uint8 [ceil(numel / 8)]; element i is bit i % 8 of byte i // 8."""
    flat = mask.reshape(-1)
    if flat.device.type == "cpu":
        return torch.from_numpy(numpy.packbits(flat.numpy(), bitorder="little"))
    return _gather(flat)


def unpack(packed: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """The bool tensor of ``shape`` whose bits :func:`pack` gave."""
    count = torch.Size(shape).numel()
    if packed.device.type == "cpu":
        flat = torch.from_numpy(numpy.unpackbits(packed.numpy(), count=count, bitorder="little")).view(torch.bool)
    else:
        flat = _spread(packed)[:count]
    return flat.view(shape)


def _gather(flat: Tensor) -> Tensor:
    """As :func:`pack`, by torch; numpy takes a third of the time on the CPU."""
    missing = -flat.numel() % 8
    if missing:
        flat = torch.cat([flat, flat.new_zeros(missing)])
    words = flat.contiguous().view(torch.uint8).view(torch.int64)
    return ((words * _GATHER) >> 56).to(torch.uint8)


def _spread(packed: Tensor) -> Tensor:
    """All bits as a bool vector, by torch; numpy takes a tenth of the time on the CPU."""
    words = (packed.long() * _SPREAD) & _DIAGONAL
    return words.view(torch.uint8) != 0


class Unpacked(Mapping[str, Tensor]):
    """Bool masks by name, of bits that are unpacked one mask at a time, whenever it is asked for."""

    def __init__(self, packed: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
        self.packed, self._shapes = packed, shapes

    def __getitem__(self, name: str) -> Tensor:
        return unpack(self.packed[name], self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)


def popcount(packed: Tensor) -> int:
    """Number of set bits."""
    in_byte = (torch.arange(256)[:, None] >> torch.arange(8) & 1).sum(1)
    return int((torch.bincount(packed.cpu().long(), minlength=256) * in_byte).sum())


def digest(packed: Tensor) -> int:
    """A 63-bit digest (BLAKE2b) of the bytes."""
    data = packed.cpu().numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1
