"""Masks as bits, against numpy's packing."""

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given

from dist_sparse.sparsity import bits

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def random_mask(shape: list[int], seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


@given(SHAPES, st.integers(0, 2**31))
def test_packs_like_numpy_and_back(shape: list[int], seed: int) -> None:
    mask = random_mask(shape, seed)
    packed = bits.pack(mask)
    assert packed.dtype == torch.uint8
    assert packed.tolist() == np.packbits(mask.numpy(), bitorder="little").tolist()
    assert bits.popcount(packed) == int(mask.sum())
    assert torch.equal(bits.unpack(packed, mask.shape), mask)


@given(SHAPES, st.integers(0, 2**31))
def test_what_a_gpu_does_is_the_same(shape: list[int], seed: int) -> None:
    mask = random_mask(shape, seed).view(-1)
    packed = bits.pack(mask)
    assert torch.equal(bits._gather(mask), packed)
    assert torch.equal(bits._spread(packed)[: mask.numel()], mask)


def test_every_byte() -> None:
    mask = torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little")).bool()
    assert bits.pack(mask).tolist() == list(range(256))


@given(st.integers(1, 70), st.integers(0, 2**31), st.data())
def test_digest_differs_on_one_flipped_bit(numel: int, seed: int, data: st.DataObject) -> None:
    mask = random_mask([numel], seed)
    flipped = mask.clone()
    flipped[data.draw(st.integers(0, numel - 1))] ^= True
    assert bits.digest(bits.pack(mask)) == bits.digest(bits.pack(mask.clone()))
    assert bits.digest(bits.pack(mask)) != bits.digest(bits.pack(flipped))
    assert 0 <= bits.digest(bits.pack(mask)) < 2**63


def test_channels_last_packs_in_logical_order() -> None:
    mask = random_mask([4, 3, 3, 3], 1)
    assert torch.equal(bits.pack(mask.to(memory_format=torch.channels_last)), bits.pack(mask))


def test_layout_and_digest_are_fixed() -> None:
    """Checkpoints of earlier versions must stay readable."""
    packed = bits.pack(torch.tensor([True, False, False, True, False, False, False, False, True]))
    assert packed.tolist() == [9, 1]
    assert bits.digest(packed) == int.from_bytes(bytes.fromhex(DIGEST), "little") >> 1


DIGEST = "62e816ed82187998"
