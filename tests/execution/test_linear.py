"""Linear layers by their active weights against torch's in double precision, over random shapes and masks."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dist_sparse.execution.compiling import compiled
from dist_sparse.execution.convolution import StepProducts
from dist_sparse.execution.geometry import innermost
from dist_sparse.execution.kernels import Kernels, kernels
from dist_sparse.execution.linear import linear_geometry, multiply
from dist_sparse.execution.modules import SparseConv2d, SparseLinear
from dist_sparse.execution.passes import Choice
from dist_sparse.execution.row_groups import RowGroups
from dist_sparse.execution.unstructured import Unstructured
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.masks import Masks
from tests.execution.pooled import check_pooling
from tests.execution.prepared import compute_sparsely

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
LEADING = st.one_of(
    st.tuples(st.integers(1, 200)),
    st.tuples(st.integers(1, 8), st.integers(1, 25)),
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 10)),
)
CASE: dict[str, Any] = {
    "leading": LEADING,
    "channels_in": st.integers(1, 70),
    "density": st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0]),
    "dtype": st.sampled_from(list(TOLERANCE)),
    "threads": st.integers(1, 3),
    "bias": st.booleans(),
    "seed": st.integers(0, 2**31),
}


def check(
    library: Kernels,
    groups: bool,
    leading: tuple[int, ...],
    channels_in: int,
    channels_out: int,
    density: float,
    dtype: torch.dtype,
    threads: int,
    bias: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    mask = torch.rand(channels_out, channels_in) < density
    made = [torch.randn(*leading, channels_in, dtype=dtype), torch.randn(mask.shape, dtype=dtype) * mask]
    made += [torch.randn(channels_out, dtype=dtype)] * bias
    ours = [each.clone().requires_grad_() for each in made]
    torchs = [each.double().requires_grad_() for each in made]
    geometry = linear_geometry(torch.Size(leading).numel(), channels_in, channels_out)
    products = (
        RowGroups(library, mask, geometry, Choice())
        if groups
        else Unstructured(library, bits.pack(mask), int(mask.sum()), geometry, Choice())
    )
    out = multiply(ours[0], ours[1], ours[2] if bias else None, StepProducts(products, products), library)
    expected = F.linear(*torchs)
    gradient = torch.randn(expected.shape, dtype=dtype)
    out.backward(gradient)
    expected.backward(gradient.double())
    check_close(out.detach(), expected.detach())
    rows = geometry.samples * geometry.size[1]
    for mine, its, terms in zip(ours, torchs, (1, rows, rows), strict=False):
        assert mine.grad is not None and its.grad is not None
        where = mask if mine is ours[1] else ...
        check_close(mine.grad[where], its.grad[where], terms)


def check_close(ours: Tensor, torchs: Tensor, terms: int = 1) -> None:
    """``terms``: how many were added up, whose size is that of sums that cancel."""
    assert ours.shape == torchs.shape
    size = max(float(torchs.norm()), (torchs.numel() * terms) ** 0.5)
    assert float((ours.double() - torchs).norm()) <= TOLERANCE[ours.dtype] * size


@settings(max_examples=300)
@given(channels_out=st.integers(1, 70), **CASE)
def test_unstructured_masks(**case: Any) -> None:
    check(kernels(), False, **case)


@settings(max_examples=300)
@given(channels_out=st.integers(1, 17).map(lambda groups: 4 * groups), **CASE)
def test_rows_in_fours(**case: Any) -> None:
    check(kernels(), True, **case)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86-64-v3", "x86-64"])
def test_vectors_of_other_processors(machine: str) -> None:
    library = Kernels(compiled((f"-march={machine}", "-O1")))  # which takes half the time to make)

    @settings(max_examples=100)
    @given(channels_out=st.integers(1, 17).map(lambda groups: 4 * groups), groups=st.booleans(), **CASE)
    def check_all(**case: Any) -> None:
        check(library, **case)

    check_all()
    check_transposition(library, 3001, 128, torch.float32)
    check_pooling(library)


def check_transposition(library: Kernels, rows: int, columns: int, dtype: torch.dtype) -> None:
    source, bias = torch.randn(rows, columns, dtype=dtype), torch.randn(columns, dtype=dtype)
    blocks, sums = library.rows_to_blocks_and_sums(source, 32)
    whole = F.pad(source, (0, 0, 0, -rows % 32))
    assert torch.equal(blocks, whole.view(-1, 32, columns).transpose(1, 2))
    assert torch.equal(blocks, library.rows_to_blocks(source, 32))
    assert torch.allclose(sums, source.double().sum(0).to(dtype), rtol=1e-6, atol=1e-5)
    assert torch.equal(library.blocks_to_rows(blocks, rows, None), source)
    assert torch.equal(library.blocks_to_rows(blocks, rows, bias), source + bias)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("columns", [128, 136, 131])
@pytest.mark.parametrize("threads", [1, 3])
def test_results_that_go_past_the_caches(columns: int, dtype: torch.dtype, threads: int) -> None:
    """Larger ones than the property tests have, whose rows begin at a cache's lines or not."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    check_transposition(kernels(), 3001, columns, dtype)


def linear(channels_in: int, channels_out: int) -> tuple[nn.Linear, SparseLinear]:
    """A layer with a mask, dense and sparse."""
    model = nn.Sequential(nn.Linear(channels_in, channels_out))
    mask = Masks({"0.weight": model[0].weight.detach()})
    mask.replace({"0.weight": torch.rand(channels_out, channels_in) < 0.3})
    mask.multiply_({"0.weight": model[0].weight.detach()})
    sparse = copy.deepcopy(model)
    compute_sparsely(sparse, mask, torch.randn(2, channels_in))
    assert isinstance(sparse[0], SparseLinear) and isinstance(model[0], nn.Linear)
    return model[0], sparse[0]


@pytest.mark.parametrize(
    "view",
    [
        lambda tokens: tokens[:, 0],
        lambda tokens: tokens.transpose(0, 1),
        lambda tokens: tokens[0, 0],
        lambda tokens: tokens[:0],
        lambda tokens: tokens[0, :1].expand(9, -1),
    ],
)
def test_inputs_of_any_strides_and_gradients_that_are_expanded(view: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    dense, sparse = linear(20, 12)
    found = []
    for layer in (dense, sparse):
        tokens = torch.linspace(-1, 1, 5 * 7 * 20).view(5, 7, 20).requires_grad_()
        out = layer(view(tokens))
        (gradient,) = torch.autograd.grad(out.sum(), tokens)
        found.append((out, gradient))
    for ours, theirs in zip(*found, strict=True):
        assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5)


def test_only_the_gradients_that_are_asked_for() -> None:
    torch.manual_seed(0)
    _, sparse = linear(20, 12)
    sparse.requires_grad_(False)
    assert not sparse(torch.randn(3, 20)).requires_grad
    sparse.bias.requires_grad_()
    sparse(torch.randn(3, 20)).sum().backward()
    assert sparse.weight.grad is None and torch.equal(sparse.bias.grad, torch.full((12,), 3.0))


class Both(nn.Module):
    """A convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).mean((2, 3)))


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last, innermost])
def test_other_dtypes_are_computed_in_that_of_the_weights(memory: Any) -> None:
    torch.manual_seed(0)
    model = Both()
    masks = Masks({f"{name}.weight": getattr(model, name).weight.detach() for name in ("conv", "fc")})
    compute_sparsely(model, masks, torch.randn(2, 3, 6, 6))
    assert isinstance(model.conv, SparseConv2d) and isinstance(model.fc, SparseLinear)
    images = torch.randn(4, 3, 6, 6, dtype=torch.bfloat16)
    images = innermost(images) if memory is innermost else images.contiguous(memory_format=memory)
    images.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    assert out.dtype == torch.float32 and torch.equal(out, model(images.float()))
    out.square().sum().backward()
    assert images.grad is not None and images.grad.dtype == torch.bfloat16 and images.grad.norm() > 0
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(model.fc(torch.ones(4, 8, dtype=dtype)), model.fc(torch.ones(4, 8)))


def test_an_input_of_other_channels_is_refused_as_torch_does() -> None:
    _, sparse = linear(20, 12)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        sparse(torch.randn(3, 40))
