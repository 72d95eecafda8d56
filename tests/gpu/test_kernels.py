"""What is computed on a GPU by other means than on the CPU: multipliers of one byte, Triton's kernels, the loss scale."""

import pytest
import torch

from dist_sparse.sparsity.masks import Masks

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_bool_multipliers_equal_float_ones(device: str, dtype: torch.dtype) -> None:
    """In every layout, and for weights that are not finite: what is inactive is 0."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"conv": (16, 8, 3, 3), "linear": (33, 65), "depthwise": (32, 1, 5, 5)}
    weights = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    new = {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in shapes.items()}
    for layout in (torch.contiguous_format, torch.channels_last):
        held = {
            name: (weight.to(memory_format=layout) if weight.dim() == 4 else weight).to(device)
            for name, weight in weights.items()
        }
        masks = Masks(held)
        masks.replace({name: mask.to(device) for name, mask in new.items()})
        masks.multiply_(held)
        for name, weight in weights.items():
            assert torch.equal(held[name].cpu(), weight * new[name].to(dtype)), name


def test_sparse_kernels_pass_their_self_test(device: str) -> None:
    from dist_sparse.execution import self_test
    from dist_sparse.execution.backends import torch_backend, triton_backend

    if device == "cuda":
        pytest.importorskip("triton")
    self_test.check(triton_backend() if device == "cuda" else torch_backend())
