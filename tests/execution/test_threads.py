"""The kernels' threads are torch's own, and what they add up is added in one order."""

import ctypes
import sys

import pytest
import torch

from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.passes import default_choice
from dist_sparse.execution.row_groups import RowGroups


def convolution(kernel: int, stride: int, dilation: int, side: int) -> tuple[RowGroups, torch.Tensor, torch.Tensor]:
    """A layer's products, a gradient of its output, and values."""
    geometry = Geometry(
        channels_in=6,
        channels_out=8,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(1, 1),
        dilation=(dilation, dilation),
        size=(side, side),
        samples=33,
    )
    torch.manual_seed(0)
    mask = (torch.rand(2, 6, kernel, kernel) < 0.4).repeat_interleave(4, 0)
    products = RowGroups(kernels(), mask, geometry, default_choice(geometry, "row_groups"))
    gradient = torch.randn(33, 8, *geometry.out_size, dtype=torch.float64)
    return products, products.gradient(gradient), torch.randn(products.positions.shape, dtype=torch.float64)


@pytest.mark.parametrize("side", [5, 12, 30])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 2, 1), (1, 2, 1), (2, 3, 1)]
)
def test_rows_that_threads_share_are_added_up_in_one_order(kernel: int, stride: int, dilation: int, side: int) -> None:
    """A part of the image waits for the next one where their rows meet: else sums would differ in their last bits."""
    products, gradient, values = convolution(kernel, stride, dilation, side)
    torch.set_num_threads(1)
    alone = products.backward_input(gradient, values).clone()
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        first, *others = (products.backward_input(gradient, values).clone() for _ in range(5))
        torch.testing.assert_close(first, alone, rtol=1e-13, atol=1e-13)
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for what torch's builds for Linux bring")
def test_torchs_threads_are_found() -> None:
    """By this name (``native/parallel.h``); else kernels would start threads of their own, which share cores with torch's."""
    assert ctypes.CDLL(None).GOMP_parallel


def test_rows_are_added_up_in_one_order_where_threads_get_in_each_others_way() -> None:
    """More threads than cores: a part may come to its last rows before the next one has begun."""
    products, gradient, values = convolution(3, 1, 1, 60)
    torch.set_num_threads(9)
    first, *others = (products.backward_input(gradient, values).clone() for _ in range(60))
    assert all(torch.equal(first, other) for other in others)
