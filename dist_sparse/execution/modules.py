"""Modules of a network that compute sparsely. By name and by state they are what they were; their forward is another."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_sparse.execution.convolution import Products, convolve
from dist_sparse.execution.geometry import Geometry, is_innermost
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.linear import linear_geometry, multiply
from dist_sparse.execution.norms import batch_norm

MakeProducts = Callable[[Geometry], Products]


class SparseConv2d(nn.Conv2d):
    """A convolution by its active weights."""

    products_of: MakeProducts

    def forward(self, input: Tensor) -> Tensor:
        input = input.to(self.weight.dtype)  # also under autocast: the kernels have no smaller numbers
        out = convolve(input, self.weight, self.products_of(geometry_of(self, input)))
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class SparseLinear(nn.Linear):
    """A linear layer by its active weights."""

    kernels: Kernels
    products_of: MakeProducts

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-1] != self.in_features:
            raise ValueError(f"a layer of {self.in_features} channels got an input of {input.shape[-1]}")
        input = input.to(self.weight.dtype)
        rows = input.numel() // self.in_features
        products = self.products_of(linear_geometry(rows, self.in_features, self.out_features))
        return multiply(input, self.weight, self.bias, products, self.kernels)


def qualifies(module: nn.Module) -> bool:
    """Whether a module is one that the kernels compute: linear, or a convolution of one group with zeros around the input."""
    return type(module) is nn.Linear or (
        type(module) is nn.Conv2d
        and module.groups == 1
        and not isinstance(module.padding, str)
        and module.padding_mode == "zeros"
    )


def geometry_of(module: nn.Conv2d, images: Tensor) -> Geometry:
    """The geometry in which a module that :func:`qualifies` sees images [N, C, H, W]."""
    assert not isinstance(module.padding, str)
    return Geometry(
        channels_in=module.in_channels,
        channels_out=module.out_channels,
        kernel=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        padding=(module.padding[0], module.padding[1]),
        dilation=(module.dilation[0], module.dilation[1]),
        size=(images.shape[2], images.shape[3]),
        samples=images.shape[0],
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
