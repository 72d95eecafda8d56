"""Pooling of tensors with samples innermost against torch's, with its gradients, over random windows."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_sparse.execution.geometry import innermost
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.norm_modules import InnermostBatchNorm2d
from tests.execution.pooled import CASE, PAIR, WINDOWS, both, check_average, check_max, of_kernels


@settings(max_examples=300)
@given(
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    special=st.booleans(),
    windows=st.fixed_dictionaries(WINDOWS),
    **CASE,
)
def test_max_pooling_is_torch_s_to_the_bit(
    dilation: tuple[int, int], special: bool, windows: dict[str, Any], **case: Any
) -> None:
    """Also where numbers are alike, or none."""
    check_max(kernels(), {**windows, "dilation": dilation}, special, **case)


@settings(max_examples=300)
@given(
    count_include_pad=st.booleans(),
    divisor_override=st.sampled_from([None, 3]),
    windows=st.fixed_dictionaries(WINDOWS),
    **CASE,
)
def test_average_pooling(windows: dict[str, Any], count_include_pad: bool, divisor_override: int | None, **case: Any) -> None:
    how = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    check_average(kernels(), nn.AvgPool2d(**windows, **how), **case)


@settings(max_examples=100)
@given(parts=PAIR, output=st.sampled_from([1, (1, 1), (None, 1), (2, 3)]), **CASE)
def test_average_pooling_to_a_size(parts: tuple[int, int], output: Any, **case: Any) -> None:
    height, width = (1, 1) if output == 1 else output
    case["size"] = (parts[0] * (height or 1), parts[1] * width)
    check_average(kernels(), nn.AdaptiveAvgPool2d(output), **case)


@pytest.mark.parametrize(
    "module",
    [
        nn.MaxPool2d(2, return_indices=True),
        nn.MaxPool2d((17, 16), padding=8),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((20, 20)),
        nn.AvgPool2d(3, divisor_override=None),
    ],
)
@pytest.mark.parametrize("taken", [True, False])
def test_others_are_torch_s(module: nn.Module, taken: bool) -> None:
    """Windows, tensors in other memory formats and of other types that the kernels do not take."""
    images = torch.randn(4, 3, 16, 20)
    given = innermost(images) if taken else images.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    ours, torchs = of_kernels(kernels(), module)(given), module(given)
    for mine, its in zip(ours, torchs, strict=True):
        assert torch.allclose(mine.float(), its.float(), atol=1e-6)


def test_windows_that_torch_refuses_are_refused_as_ever() -> None:
    images = innermost(torch.randn(4, 3, 5, 5))
    for module, said in ((nn.MaxPool2d(6), "too small"), (nn.MaxPool2d(2, padding=2), "pad should be at most half")):
        with pytest.raises(RuntimeError, match=said):
            of_kernels(kernels(), module)(images)


@pytest.mark.parametrize("threads", [1, 2])
def test_results_that_go_past_the_caches(threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    images = torch.randn(48, 10, 80, 80).round()
    for mine, its in zip(*both(kernels(), nn.MaxPool2d(3, 1, 1), images), strict=True):
        assert torch.equal(mine, its)


def test_a_gradient_with_padding_between_its_rows_and_an_expanded_one() -> None:
    """As the kernels for row groups leave it, and as a mean does."""
    torch.manual_seed(0)
    images, whole = torch.randn(16, 4, 10, 12), innermost(torch.randn(16, 4, 7, 8))
    for module in (nn.MaxPool2d(2), nn.AvgPool2d(2)):
        for gradient in (whole[:, :, 1:6, 1:7], whole[:, :, :1, :1].expand(16, 4, 5, 6)):
            found = []
            for each, source in ((of_kernels(kernels(), module), innermost(images)), (module, images.clone())):
                leaf = source.requires_grad_()
                each(leaf).backward(gradient)
                found.append(leaf.grad)
            assert torch.allclose(*found, rtol=1e-6)


def test_a_norm_leaves_what_kernels_have_no_numbers_for_to_torch() -> None:
    """One sample with its channels last has its samples innermost as well."""
    norm: Any = nn.BatchNorm2d(3).eval()
    images = torch.randn(1, 3, 4, 5, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    expected = norm(images)
    norm.__class__, norm.kernels = InnermostBatchNorm2d, kernels()
    assert torch.equal(norm(images), expected)
