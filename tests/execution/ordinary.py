"""Products on tensors as they come, in torch's formats, against torch's dense layers in double precision."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Size, Tensor, nn

from dist_sparse.execution.backends import Backend
from dist_sparse.execution.convolution import StepProducts, convolve
from dist_sparse.execution.geometry import Geometry, innermost
from dist_sparse.execution.linear import linear_geometry, multiply
from dist_sparse.execution.modules import SparseConv2d
from dist_sparse.execution.products import Products
from dist_sparse.execution.wide_groups import ROWS, WideGroups
from dist_sparse.sparsity.masks import Masks
from tests.execution.prepared import compute_sparsely

MakeProducts = Callable[[WideGroups, Geometry], Products]
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": Tensor.contiguous,
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "samples innermost": innermost,
    "part of another": lambda images: F.pad(images, (1, 2, 2, 1))[:, :, 2:-1, 1:-2],
}
PAIRS = [(1, 1), (2, 2), (1, 2), (3, 2)]
GRADIENTS = ["of the mask", "of a wider one", "of all weights"]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Layers of up to three groups, whose kernel fits into the padded input."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]))
    padding, dilation = draw(st.sampled_from([(0, 0), (1, 1), (2, 1)])), draw(st.sampled_from(PAIRS[:3]))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    return Geometry(
        channels_in=draw(st.integers(1, 9)),
        channels_out=ROWS * draw(st.integers(1, 3)),
        kernel=kernel,
        stride=draw(st.sampled_from(PAIRS)),
        padding=padding,
        dilation=dilation,
        size=(draw(st.integers(least[0], least[0] + 6)), draw(st.integers(least[1], least[1] + 6))),
        samples=draw(st.integers(1, 5)),
    )


MASK: dict[str, Any] = {
    "density": st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    "alike": st.sampled_from([1, ROWS]),
    "gradients": st.sampled_from(GRADIENTS),
    "dtype": st.sampled_from(list(TOLERANCE)),
    "seed": st.integers(0, 2**31),
}
CONVOLUTION: dict[str, Any] = {"geometry": geometries(), "memory": st.sampled_from(list(FORMATS)), **MASK}
LINEAR: dict[str, Any] = {
    "leading": st.sampled_from([(1,), (70,), (3, 7), (2, 3, 4), (0,)]),
    "channels_in": st.integers(1, 70),
    "channels_out": st.integers(1, 4).map(lambda groups: ROWS * groups),
    "bias": st.booleans(),
    **MASK,
}


@dataclass
class Masked:
    """A mask, products made of it, and where the gradient of the weight is to be right."""

    mask: Tensor
    pair: StepProducts
    needed: Tensor

    @classmethod
    def draw(cls, make: MakeProducts, geometry: Geometry, density: float, alike: int, gradients: str) -> "Masked":
        """Rows that agree in so many, wherever they stand."""
        rows = torch.rand(geometry.channels_out // alike, geometry.channels_in, *geometry.kernel) < density
        mask = rows.repeat_interleave(alike, 0)[torch.randperm(geometry.channels_out)]
        forward = make(WideGroups.of(mask.flatten(1)), geometry)
        assert int(mask.sum()) <= forward.positions.numel()
        assert alike == 1 or int(mask.sum()) == forward.positions.numel()
        if gradients == GRADIENTS[0]:
            return cls(mask, StepProducts(forward, forward), mask)
        if gradients == GRADIENTS[2]:
            return cls(mask, StepProducts(forward, None), torch.ones_like(mask))
        wider = mask | (torch.rand(mask.shape) < 0.3)
        return cls(mask, StepProducts(forward, make(WideGroups.of(wider.flatten(1)), geometry)), wider)


def check_convolution(
    make: MakeProducts,
    geometry: Geometry,
    memory: str,
    density: float,
    alike: int,
    gradients: str,
    dtype: torch.dtype,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    masked = Masked.draw(make, geometry, density, alike, gradients)
    images = FORMATS[memory](torch.randn(geometry.samples, geometry.channels_in, *geometry.size, dtype=dtype))
    weight = torch.randn(masked.mask.shape, dtype=dtype) * masked.mask

    def dense(images: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(images, weight, stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation)

    _compare(lambda images, weight: convolve(images, weight, masked.pair), dense, [images, weight], masked.needed)


def check_linear(
    make: MakeProducts,
    leading: tuple[int, ...],
    channels_in: int,
    channels_out: int,
    bias: bool,
    density: float,
    alike: int,
    gradients: str,
    dtype: torch.dtype,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    geometry = linear_geometry(torch.Size(leading).numel(), channels_in, channels_out)
    masked = Masked.draw(make, geometry, density, alike, gradients)
    needed = masked.needed.flatten(1)
    made = [torch.randn(*leading, channels_in, dtype=dtype), torch.randn(needed.shape, dtype=dtype) * masked.mask.flatten(1)]
    made += [torch.randn(channels_out, dtype=dtype)] * bias
    _compare(lambda rows, weight, of=None: multiply(rows, weight, of, masked.pair, None), F.linear, made, needed)


def _compare(sparse: Callable[..., Tensor], dense: Callable[..., Tensor], made: list[Tensor], needed: Tensor) -> None:
    """Results and gradients; that of the weight, the second tensor, where it is needed."""
    ours, torchs = [each.clone().requires_grad_() for each in made], [each.double().requires_grad_() for each in made]
    out, expected = sparse(*ours), dense(*torchs)
    gradient = torch.randn(expected.shape).to(out.dtype)
    out.backward(gradient)
    expected.backward(gradient.double())
    _check_close(out.detach(), expected.detach())
    for place, (mine, its) in enumerate(zip(ours, torchs, strict=True)):
        assert mine.grad is not None and its.grad is not None
        where = needed if place == 1 else ...
        _check_close(mine.grad[where], its.grad[where], terms=max(1, gradient[..., 0].numel()))


def _check_close(ours: Tensor, torchs: Tensor, terms: int = 1) -> None:
    """``terms``: how many were added up, whose size is that of sums that cancel."""
    assert ours.shape == torchs.shape
    size = max(float(torchs.norm()), (torchs.numel() * terms) ** 0.5)
    assert float((ours.double() - torchs).norm()) <= TOLERANCE[ours.dtype] * size


class Small(nn.Module):
    """Convolutions, whose results are normalised or changed in place, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.fc = nn.Conv2d(16, 32, 1, stride=2, bias=False), nn.Linear(32, 16)

    def forward(self, images: Tensor) -> Tensor:
        out = F.relu(self.norm(self.first(images)))
        return self.fc(F.relu(self.second(out), inplace=True).flatten(2).transpose(1, 2)).mean(1)


def check_network(backend: Backend) -> None:
    """Results and gradients of a network beside those of a dense one, while its masks move; and under autocast."""
    torch.manual_seed(0)
    dense = Small().double()
    masks = Masks({f"{name}.weight": getattr(dense, name).weight.detach() for name in ("first", "second", "fc")})
    images = torch.randn(2, 3, 4, 4).double()
    sparse = copy.deepcopy(dense)
    current = compute_sparsely(sparse, masks, images, backend)
    for _ in range(2):
        masks.replace({name: _alike(masks.shape(name)) for name in masks.names})
        for model in (dense, sparse):
            parameters = dict(model.named_parameters())
            masks.multiply_({name: parameters[name].detach() for name in masks.names})
        assert {each.way for each in current.chosen().values()} == set(backend.ways) and len(current.chosen()) == 3
        found = []
        for model in (dense, sparse):
            model.zero_grad()
            out = model(images)
            out.square().sum().backward()
            gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
            masks.multiply_({name: gradients[name] for name in masks.names})
            found.append({"out": out.detach(), **gradients})
        assert found[0].keys() == found[1].keys()
        for name, value in found[0].items():
            assert torch.allclose(found[1][name], value, rtol=1e-9, atol=1e-11), name
    _check_autocast(sparse.float(), images.bfloat16())


def _check_autocast(sparse: nn.Module, images: Tensor) -> None:
    assert isinstance(sparse.first, SparseConv2d)
    with torch.autocast("cpu", torch.bfloat16):
        out = sparse.first(images)
    assert out.dtype == torch.float32 and torch.equal(out, sparse.first(images.float()))


def _alike(shape: Size) -> Tensor:
    """A mask whose rows agree in groups of 16."""
    return (torch.rand(shape[0] // ROWS, *shape[1:]) < 0.3).repeat_interleave(ROWS, 0)
