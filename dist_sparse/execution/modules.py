"""Modules of a network that compute sparsely. By name and by state they are what they were; their forward is another."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_sparse.execution.convolution import StepProducts, convolve
from dist_sparse.execution.geometry import Geometry, is_innermost
from dist_sparse.execution.kernels import DTYPES, Kernels
from dist_sparse.execution.linear import linear_geometry, multiply
from dist_sparse.execution.norms import batch_norm

MakeProducts = Callable[[Geometry], StepProducts | None]
"""The products of a layer in a geometry; None to compute it densely."""

DenseLayer = nn.Conv2d | nn.Linear


class SparseConv2d(nn.Conv2d):
    """A convolution by its active weights; dense where there are no products for them, and on other devices."""

    products_of: MakeProducts

    def forward(self, input: Tensor) -> Tensor:
        if not _fits(self, input) or (products := self.products_of(geometry_of(self, input.shape))) is None:
            return super().forward(input)
        out = convolve(
            input.to(self.weight.dtype), self.weight, products
        )  # also under autocast: kernels have no smaller numbers
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class SparseLinear(nn.Linear):
    """A linear layer by its active weights, as :class:`SparseConv2d`."""

    kernels: Kernels
    products_of: MakeProducts

    def forward(self, input: Tensor) -> Tensor:
        if not _fits(self, input) or (products := self.products_of(geometry_of(self, input.shape))) is None:
            return super().forward(input)
        return multiply(input.to(self.weight.dtype), self.weight, self.bias, products, self.kernels)


SparseLayer = SparseConv2d | SparseLinear


def _fits(module: DenseLayer, input: Tensor) -> bool:
    """Whether the kernels can take an input; of others, torch tells what is wrong with them."""
    if input.device.type != "cpu":
        return False
    if isinstance(module, nn.Linear):
        return input.dim() > 0 and input.shape[-1] == module.in_features
    return input.dim() == 4 and input.shape[1] == module.in_channels


def qualifies(module: nn.Module) -> bool:
    """Whether the kernels can compute a module: linear, or a convolution of one group with zeros around the input."""
    if type(module) is nn.Conv2d:
        fits = module.groups == 1 and not isinstance(module.padding, str) and module.padding_mode == "zeros"
        return fits and module.weight.dtype in DTYPES
    return type(module) is nn.Linear and module.weight.dtype in DTYPES


def make_sparse(module: DenseLayer, kernels: Kernels, products_of: MakeProducts) -> SparseLayer:
    """The same module, which :func:`qualifies`, changed to compute by products."""
    if isinstance(module, nn.Linear):
        module.__class__ = SparseLinear
        assert isinstance(module, SparseLinear)
        module.kernels = kernels
    else:
        module.__class__ = SparseConv2d
        assert isinstance(module, SparseConv2d)
    module.products_of = products_of
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


class InnermostBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that keeps tensors with samples innermost as they are, with the ReLU behind it if that is its only use."""

    kernels: Kernels
    relu: bool = False

    def forward(self, input: Tensor) -> Tensor:
        if not is_innermost(input) or self.weight is None:
            out = super().forward(input)
            return _mark(F.relu(out)) if self.relu else out
        statistics = None if self.training or self.running_mean is None else self._running()
        out, used = batch_norm(self.kernels, input, self.weight, self.bias, statistics=statistics, eps=self.eps, relu=self.relu)
        if self.training and self.track_running_stats:
            self._update(used, input.numel() // input.shape[1])
        return _mark(out) if self.relu else out

    def _running(self) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        return torch.stack([self.running_mean, self.running_var])

    def _update(self, used: Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(used[0].to(self.running_mean.dtype), factor)
        self.running_var.lerp_((used[1] * count / max(1, count - 1)).to(self.running_var.dtype), factor)


class SkippedReLU(nn.ReLU):
    """A ReLU that has nothing to do where the batch norm before it has done it."""

    def forward(self, input: Tensor) -> Tensor:
        return input if getattr(input, "_is_relu", False) else super().forward(input)


def _mark(out: Tensor) -> Tensor:
    out._is_relu = True  # pyright: ignore[reportAttributeAccessIssue]
    return out
