"""Digests of tensors: any bit counts, and so does the place of an entry."""

import pytest
import torch

from dist_sparse.engines.replicas import digest

SHAPES = [(3,), (8,), (33_000, 2), (5, 4, 3, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_bit_counts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    tensor = torch.randn(shape, generator=draws).to(dtype)
    before = digest(tensor)
    data = tensor.view(-1).view(torch.uint8)
    for place in torch.randint(len(data), (20,), generator=draws).tolist():
        for bit in range(1 if dtype == torch.bool else 8):
            data[place] ^= 1 << bit
            assert digest(tensor) != before
            data[place] ^= 1 << bit
    assert digest(tensor) == before


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_place_counts(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    flat = tensor.flatten().clone()
    flat[0], flat[2] = flat[2].clone(), flat[0].clone()
    assert digest(tensor) != digest(flat)


def test_every_tensor_has_one() -> None:
    images = torch.randn(2, 4, 5, 5)
    values = [
        torch.zeros(()),
        torch.zeros(0),
        images.to(memory_format=torch.channels_last),
        images[0, 1:],
        images.permute(3, 2, 1, 0),
        images[..., 1],
    ]
    assert all(digest(each).dtype == torch.int64 and digest(each).dim() == 0 for each in values)
