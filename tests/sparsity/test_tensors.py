"""Questions to large tensors, against the plain way."""

import pytest
import torch

from dist_sparse.sparsity.tensors import is_finite, select, where_true


@pytest.mark.parametrize("mask", [torch.rand(7, 5) < 0.3, (torch.rand(5, 7) < 0.5).t(), torch.zeros(3, dtype=torch.bool)])
def test_where_a_mask_is_true(mask: torch.Tensor) -> None:
    assert torch.equal(where_true(mask), mask.reshape(-1).nonzero().view(-1))
    tensor = torch.rand(mask.shape)
    assert torch.equal(select(tensor, mask), tensor[mask])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("bad", [None, torch.nan, torch.inf, -torch.inf])
def test_whether_all_is_finite(dtype: torch.dtype, bad: float | None) -> None:
    tensor = torch.randn(3, 4).to(dtype)
    if bad is not None:
        tensor[1, 2] = bad
    assert bool(is_finite(tensor)) is (bad is None)
    assert is_finite(torch.empty(0, dtype=dtype))
