"""Modules of a network that compute sparsely. By name and by state they are what they were; their forward is another."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dist_sparse.execution.backends import Backend
from dist_sparse.execution.convolution import StepProducts, convolve
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.kernels import DTYPES
from dist_sparse.execution.linear import linear_geometry, multiply
from dist_sparse.execution.stored import WHOLE, Stored

MakeProducts = Callable[[Geometry], StepProducts | None]
"""The products of a layer in a geometry; None to compute it densely."""

DenseLayer = nn.Conv2d | nn.Linear


class SparseConv2d(nn.Conv2d):
    """A convolution by its active weights; dense where there are no products for them, and on other devices."""

    backend: Backend
    products_of: MakeProducts
    store: Stored = WHOLE

    def forward(self, input: Tensor) -> Tensor:
        if not _fits(self, input) or (products := self.products_of(geometry_of(self, input.shape))) is None:
            return super().forward(input)
        held = _held(self)
        out = convolve(input.to(held.dtype), held, products, self.store)  # also under autocast: kernels have no smaller numbers
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class SparseLinear(nn.Linear):
    """A linear layer by its active weights, as :class:`SparseConv2d`."""

    backend: Backend
    products_of: MakeProducts
    store: Stored = WHOLE

    def forward(self, input: Tensor) -> Tensor:
        if not _fits(self, input) or (products := self.products_of(geometry_of(self, input.shape))) is None:
            return super().forward(input)
        held = _held(self)
        return multiply(input.to(held.dtype), held, self.bias, products, self.backend.kernels, self.store)


SparseLayer = SparseConv2d | SparseLinear


def _held(module: nn.Module) -> Tensor:
    """The parameter, which is the weight or what there is in its place."""
    held = module._parameters["weight"]
    assert held is not None
    return held


def _fits(module: "SparseLayer", input: Tensor) -> bool:
    """Whether the backend can take an input; of others, torch tells what is wrong with them."""
    if input.device.type != module.backend.device:
        return False
    if isinstance(module, nn.Linear):
        return input.dim() > 0 and input.shape[-1] == module.in_features
    return input.dim() == 4 and input.shape[1] == module.in_channels


def qualifies(module: nn.Module) -> bool:
    """Whether a backend can compute a module: linear, or a convolution of one group with zeros around the input."""
    if type(module) is nn.Conv2d:
        fits = module.groups == 1 and not isinstance(module.padding, str) and module.padding_mode == "zeros"
        return fits and module.weight.dtype in DTYPES
    return type(module) is nn.Linear and module.weight.dtype in DTYPES


def make_sparse(module: DenseLayer, backend: Backend, products_of: MakeProducts) -> SparseLayer:
    """The same module, which :func:`qualifies`, changed to compute by products."""
    if isinstance(module, nn.Linear):
        module.__class__ = SparseLinear
        assert isinstance(module, SparseLinear)
    else:
        module.__class__ = SparseConv2d
        assert isinstance(module, SparseConv2d)
    module.backend, module.products_of = backend, products_of
    return module


def geometry_of(module: DenseLayer, input: torch.Size) -> Geometry:
    """The geometry in which a module that :func:`qualifies` sees an input of a shape: [N, C, H, W], or [..., C] if linear."""
    if isinstance(module, nn.Linear):
        return linear_geometry(input.numel() // module.in_features, module.in_features, module.out_features)
    assert not isinstance(module.padding, str)
    return Geometry(
        channels_in=module.in_channels,
        channels_out=module.out_channels,
        kernel=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        padding=(module.padding[0], module.padding[1]),
        dilation=(module.dilation[0], module.dilation[1]),
        size=(input[2], input[3]),
        samples=input[0],
    )
