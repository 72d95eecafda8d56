"""Batch norm of tensors with samples innermost against torch's in double precision, with its gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_sparse.execution.geometry import innermost, is_innermost
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.norms import batch_norm, batch_statistics

TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-12}


@settings(max_examples=200)
@given(
    samples=st.sampled_from([1, 3, 8, 16, 20, 32, 40, 64]),
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(2, 13), st.integers(1, 13)),
    dtype=st.sampled_from(list(TOLERANCE)),
    given_statistics=st.booleans(),
    behind=st.sampled_from(["nothing", "relu", "sum and relu"]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_results_and_gradients_are_torch_s(
    samples: int,
    channels: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    given_statistics: bool,
    behind: str,
    threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    spread, center = torch.rand(channels, dtype=dtype) + 0.1, 3 * torch.randn(channels, dtype=dtype)
    images = torch.randn(samples, channels, *size, dtype=dtype) * spread[:, None, None] + center[:, None, None]
    weight, bias = torch.randn(2, channels, dtype=dtype)
    statistics = torch.stack([center, spread]) if given_statistics else None
    relu, added = behind != "nothing", behind == "sum and relu"
    residual = torch.randn_like(images)
    ours = [each.detach().clone().requires_grad_() for each in (innermost(images), weight, bias, innermost(residual))]
    torchs = [each.detach().double().requires_grad_() for each in (images, weight, bias, residual)]
    used = batch_statistics(kernels(), ours[0]) if statistics is None else statistics.double()
    how = {"of_batch": statistics is None, "relu": relu, "residual": ours[3] if added else None}
    out = batch_norm(kernels(), *ours[:3], used, **how)
    before = reference(*torchs[:3], statistics=statistics, residual=torchs[3] if added else 0)
    expected = before.relu() if relu else before
    gradient = torch.randn_like(expected) * (before.abs() > 1e-4 if relu else 1)  # the ReLU's kink may lie on either side
    out.backward(innermost(gradient.to(dtype)))
    expected.backward(gradient)
    assert is_innermost(out)
    check_close(dtype, out.detach(), expected.detach())
    mean, variance = used
    for mine, its in zip(ours[1 : 3 + added], torchs[1 : 3 + added], strict=True):
        check_close(dtype, mine.grad, its.grad)
    if statistics is None:
        check_close(dtype, mean, torchs[0].detach().mean((0, 2, 3)))
        check_close(dtype, variance, torchs[0].detach().var((0, 2, 3), correction=0))
    factor = (torchs[1] / (variance + 1e-5).sqrt()).detach()[:, None, None]
    check_close(dtype, ours[0].grad, torchs[0].grad, terms=float((gradient * factor).norm()))


def check_close(dtype: torch.dtype, ours: Tensor | None, torchs: Tensor | None, terms: float = 0.0) -> None:
    """``terms``: the norm of what was added up, where sums may cancel."""
    assert ours is not None and torchs is not None and ours.shape == torchs.shape
    scale = max(float(torchs.norm()), torchs.numel() ** 0.5, terms)
    assert float((ours.double() - torchs).norm()) <= TOLERANCE[dtype] * scale


def reference(images: Tensor, weight: Tensor, bias: Tensor, *, statistics: Tensor | None, residual: Tensor | int) -> Tensor:
    mean, variance = (None, None) if statistics is None else statistics.double()
    return F.batch_norm(images, mean, variance, weight, bias, training=statistics is None) + residual


def test_a_mean_far_from_zero_costs_the_variance_nothing() -> None:
    torch.manual_seed(0)
    images = innermost(1e4 + torch.randn(32, 3, 20, 20))
    mean, variance = batch_statistics(kernels(), images)
    assert torch.allclose(mean, images.double().mean((0, 2, 3)), rtol=1e-9)
    assert torch.allclose(variance, images.double().var((0, 2, 3), correction=0), rtol=1e-5)


def test_a_gradient_with_padding_between_its_rows() -> None:
    """As the kernels for row groups leave it."""
    torch.manual_seed(0)
    images, weight, bias = innermost(torch.randn(16, 4, 5, 6)), torch.randn(4), torch.randn(4)
    whole = innermost(torch.randn(16, 4, 7, 8))
    statistics, found = batch_statistics(kernels(), images), []
    for gradient in (whole[:, :, 1:6, 1:7], innermost(whole[:, :, 1:6, 1:7])):
        leaf = images.detach().clone().requires_grad_()
        batch_norm(kernels(), leaf, weight, bias, statistics, of_batch=True, relu=True).backward(gradient)
        found.append(leaf.grad)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("of_batch", [True, False])
@pytest.mark.parametrize("added", [False, True])
def test_a_relu_keeps_what_is_not_a_number(dtype: torch.dtype, of_batch: bool, added: bool) -> None:
    """As torch's does, so that a run that diverges is seen to."""
    torch.manual_seed(0)
    given = [torch.randn(19, 3, 4, 5, dtype=dtype), torch.rand(3, dtype=dtype), torch.rand(3, dtype=dtype)]
    residual = torch.randn_like(given[0])
    given[0][:, 1, 2, 3] = residual[:, 2, 1, 1] = torch.nan
    gradient = torch.randn_like(residual)
    statistics = torch.stack([torch.zeros(3), torch.ones(3)])
    ours = [each.clone().requires_grad_() for each in (innermost(given[0]), *given[1:], innermost(residual))]
    torchs = [each.detach().to(torch.float64, copy=True).requires_grad_() for each in (*given, residual)]
    used = batch_statistics(kernels(), ours[0]) if of_batch else statistics.double()
    out = batch_norm(kernels(), *ours[:3], used, of_batch=of_batch, relu=True, residual=ours[3] if added else None)
    known = None if of_batch else statistics
    expected = reference(*torchs[:3], statistics=known, residual=torchs[3] if added else 0).relu()
    out.backward(innermost(gradient))
    expected.backward(gradient.double())
    same = partial(torch.testing.assert_close, equal_nan=True, check_dtype=False, rtol=1e-4, atol=1e-4)
    assert expected.isnan().any()
    same(out, expected)
    for mine, its, source in zip(ours[: 3 + added], torchs[: 3 + added], [*given, residual][: 3 + added], strict=True):
        assert mine.grad is not None and its.grad is not None
        numbers = ~source.isnan()  # the others' gradients are no numbers here, whatever torch gives
        same(mine.grad[numbers], its.grad[numbers])
