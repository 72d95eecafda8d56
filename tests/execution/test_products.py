"""The kernels' products and gradients against torch's dense convolution in double precision, over random layers and masks."""

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_sparse.execution.compiling import compiled
from dist_sparse.execution.geometry import Geometry, innermost, is_innermost, padded
from dist_sparse.execution.kernels import Kernels, kernels
from dist_sparse.execution.passes import Choice, default_choice
from dist_sparse.execution.row_groups import RowGroups, group_rows
from dist_sparse.execution.unstructured import Unstructured
from dist_sparse.sparsity import bits

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
SAMPLES = [1, 2, 3, 5, 8, 16, 20, 31, 32, 33, 64]
PAIRS = [(1, 1), (2, 2), (1, 2), (3, 2)]


@st.composite
def geometries(draw: st.DrawFn, channels_out: st.SearchStrategy[int]) -> Geometry:
    """Layers whose kernel fits into the padded input."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 5), (7, 1)]))
    padding, dilation = draw(st.sampled_from([(0, 0), (1, 1), (2, 1), (3, 3)])), draw(st.sampled_from(PAIRS[:3]))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    return Geometry(
        channels_in=draw(st.integers(1, 9)),
        channels_out=draw(channels_out),
        kernel=kernel,
        stride=draw(st.sampled_from(PAIRS)),
        padding=padding,
        dilation=dilation,
        size=(draw(st.integers(least[0], least[0] + 12)), draw(st.integers(least[1], least[1] + 12))),
        samples=draw(st.sampled_from(SAMPLES)),
    )


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    forward, backward, weights = (draw(st.integers(1, 9)) for _ in range(3))
    blocks, backward_blocks = (draw(st.integers(1, 5)) for _ in range(2))
    streams, backward_streams = (draw(st.booleans()) for _ in range(2))
    return Choice(
        forward=forward,
        backward=backward,
        weights=weights,
        forward_blocks=blocks,
        backward_blocks=backward_blocks,
        streams=streams,
        backward_streams=backward_streams,
    )


CASE: dict[str, Any] = {
    "choice": choices(),
    "density": st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0]),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
    "threads": st.integers(1, 3),
    "seed": st.integers(0, 2**31),
}


class Case:
    """A layer with a mask, an input and a gradient of the output; what torch makes of them in double precision."""

    def __init__(self, geometry: Geometry, mask: Tensor, dtype: torch.dtype) -> None:
        self.geometry, self.mask, self.dtype = geometry, mask, dtype
        self.image = torch.randn(geometry.samples, geometry.channels_in, *geometry.size, dtype=dtype)
        self.weight = torch.randn(mask.shape, dtype=dtype) * mask
        image, weight = self.image.double().requires_grad_(), self.weight.double().requires_grad_()
        self.out = F.conv2d(image, weight, stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation)
        self.gradient = torch.randn_like(self.out).to(dtype)
        self.out.backward(self.gradient.double())
        assert image.grad is not None and weight.grad is not None
        self.image_gradient, self.weight_gradient = image.grad, weight.grad

    def check(self, products: Unstructured | RowGroups, values: Tensor) -> Tensor:
        """Compare output and gradient of the input; returns the gradient of the values, to be compared by the caller."""
        rows, columns = ((pad, pad) for pad in self.geometry.padding)
        source, gradient = padded(innermost(self.image), rows, columns), innermost(self.gradient)
        out = products.forward(source, values)
        assert is_innermost(out)
        self.check_close(out, self.out.detach())
        self.check_close(products.backward_input(gradient, values), self.image_gradient)
        return products.backward_weights(source, gradient)

    def check_weights(self, gradient: Tensor) -> None:
        """Each is the sum of as many terms as the output has positions and samples."""
        self.check_close(gradient, self.weight_gradient[self.mask], terms=self.gradient[:, 0].numel())

    def check_close(self, ours: Tensor, torchs: Tensor, terms: int = 1) -> None:
        assert ours.shape == torchs.shape
        size = max(float(torchs.norm()), (torchs.numel() * terms) ** 0.5)  # of sums that cancel, that of their terms
        assert float((ours.double() - torchs).norm()) <= TOLERANCE[self.dtype] * size


def check_unstructured(
    library: Kernels, geometry: Geometry, choice: Choice, density: float, dtype: torch.dtype, threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    case = Case(geometry, torch.rand(geometry.channels_out, geometry.channels_in, *geometry.kernel) < density, dtype)
    products = Unstructured(library, bits.pack(case.mask), int(case.mask.sum()), geometry, choice)
    case.check_weights(case.check(products, case.weight[case.mask]))


def check_row_groups(
    library: Kernels, geometry: Geometry, choice: Choice, density: float, dtype: torch.dtype, threads: int, seed: int
) -> None:
    """Rows that agree in fours, wherever they stand, or not at all."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    alike = (1, 4)[seed % 2]
    rows = torch.rand(geometry.channels_out // alike, geometry.channels_in, *geometry.kernel) < density
    case = Case(geometry, rows.repeat_interleave(alike, 0)[torch.randperm(geometry.channels_out)], dtype)
    products = RowGroups(library, case.mask, geometry, choice)
    assert alike == 1 or products.fill == 1 or products.is_dense or not case.mask.any()
    values = case.weight.reshape(-1)[products.positions]
    gradient = torch.zeros(case.weight.numel(), dtype=dtype)
    gradient[products.positions.view(-1)] = case.check(products, values).view(-1)
    case.check_weights(gradient[case.mask.view(-1)])


@settings(max_examples=300)
@given(geometry=geometries(st.integers(1, 9)), **CASE)
def test_unstructured_masks(geometry: Geometry, **case: Any) -> None:
    check_unstructured(kernels(), geometry, **case)


@settings(max_examples=300)
@given(geometry=geometries(st.integers(1, 5).map(lambda groups: 4 * groups)), **CASE)
def test_rows_in_fours(geometry: Geometry, **case: Any) -> None:
    check_row_groups(kernels(), geometry, **case)


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86-64-v3", "x86-64"])
def test_vectors_of_other_processors(machine: str) -> None:
    """AVX2, and no more than every 64-bit processor of the kind has: the same source, compiled for them."""
    library = Kernels(compiled((f"-march={machine}",)))

    @settings(max_examples=100)
    @given(geometry=geometries(st.integers(1, 5).map(lambda groups: 4 * groups)), **CASE)
    def check(geometry: Geometry, **case: Any) -> None:
        check_unstructured(library, geometry, **case)
        check_row_groups(library, geometry, **case)

    check()


def test_a_run_on_as_many_threads_gives_the_same_bits() -> None:
    geometry = Geometry(
        channels_in=16, channels_out=16, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), size=(9, 9), samples=32
    )
    torch.manual_seed(0)
    case = Case(geometry, torch.rand(16, 16, 3, 3) < 0.2, torch.float32)
    products = Unstructured(kernels(), bits.pack(case.mask), int(case.mask.sum()), geometry, Choice())
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        first, second = (case.check(products, case.weight[case.mask]) for _ in range(2))
        assert torch.equal(first, second)


def test_groups_of_rows_keep_equal_rows_together() -> None:
    mask = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1], [1, 1], [1, 0], [0, 0]], dtype=torch.bool)
    hashes, active = kernels().hash_rows(mask)
    rows = group_rows(hashes)
    start, column = kernels().columns_of_groups(mask, rows)
    assert active == int(mask.sum())
    assert rows.tolist() == [[0, 2, 3, 6], [1, 4, 5, 7]]
    assert (start.tolist(), column.tolist()) == ([0, 1, 3], [0, 0, 1])


def test_an_index_takes_twelve_bytes_an_active_weight_beside_its_rows() -> None:
    geometry = Geometry(
        channels_in=512,
        channels_out=128,
        kernel=(3, 3),
        stride=(2, 2),
        padding=(1, 1),
        dilation=(1, 1),
        size=(56, 56),
        samples=32,
    )
    mask = torch.rand(128, 512, 3, 3) < 0.1
    active = int(mask.sum())
    products = Unstructured(kernels(), bits.pack(mask), active, geometry, default_choice(geometry, "unstructured"))
    rows = 128 + 1 + 4 * 512 + 1  # of the output, and of each phase of the input
    assert products.index_bytes == 12 * active + 4 * rows
    too_far = dataclasses.replace(geometry, size=(112, 112))
    products = Unstructured(kernels(), bits.pack(mask), active, too_far, default_choice(too_far, "unstructured"))
    assert products.index_bytes == 14 * active + 4 * rows


def test_the_index_of_a_dense_layer_is_told_whole() -> None:
    geometry = Geometry(
        channels_in=8, channels_out=8, kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1), size=(5, 5), samples=16
    )
    products = RowGroups(kernels(), torch.ones(8, 8, 1, 1, dtype=torch.bool), geometry, default_choice(geometry, "row_groups"))
    assert products.is_dense
    values, columns, groups = 64, 16, 2
    assert products.index_bytes == 8 * values + (4 + 2 + 2) * columns + 4 * (2 * (groups + 1) + 8 + 8)
