"""Batch norm of tensors whose samples are innermost, with a residual sum and a ReLU behind it if wanted, in few passes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.geometry import is_innermost, rowwise
from dist_sparse.execution.kernels import Kernels


def batch_statistics(kernels: Kernels, images: Tensor) -> Tensor:
    """Mean and biased variance by channel of images [N, C, H, W] with samples innermost: float64 [2, C], without gradients."""
    return torch.stack(kernels.channel_statistics(images.detach()))


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        statistics: Tensor,
        of_batch: bool,
        eps: float,
        relu: bool,
    ) -> Tensor:
        ctx.kernels, ctx.of_batch, ctx.sum = kernels, of_batch, residual is not None
        mean, variance = statistics
        inverse = (variance + eps).rsqrt()
        scale = weight.double() * inverse
        shift = bias.double() - mean * scale
        out = kernels.scale_and_shift(images, scale, shift, relu=relu, residual=residual)
        behind = (out,) if ctx.sum else (scale, shift) if relu else ()
        ctx.save_for_backward(images, weight, mean, inverse, *behind)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        images, weight, mean, inverse, *behind = ctx.saved_tensors
        gradient, relu, of_residual = rowwise(gradient), None, None
        if ctx.sum:
            gradient, (sums, products) = ctx.kernels.gradient_before_relu(gradient, images, behind[0], mean)
            of_residual = gradient
        else:
            relu = (behind[0], behind[1]) if behind else None
            sums, products = ctx.kernels.gradient_sums(gradient, images, relu, mean)
        scale = weight.double() * inverse
        count = images.numel() // len(mean)
        by_images = -scale * inverse.square() * products / count if ctx.of_batch else torch.zeros_like(mean)
        constant = -scale * sums / count if ctx.of_batch else torch.zeros_like(mean)
        of_images = ctx.kernels.gradient_of_norm(gradient, images, relu, mean, (scale, by_images, constant))
        of_weight, of_bias = (products * inverse).to(weight.dtype), sums.to(weight.dtype)
        return None, of_images, of_weight, of_bias, of_residual, None, None, None, None


def batch_norm(
    kernels: Kernels,
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    statistics: Tensor,
    *,
    of_batch: bool,
    eps: float = 1e-5,
    relu: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """``images`` [N, C, H, W], samples innermost, normalised by channel, scaled and shifted; so lies the result.

    Args:
        statistics: mean and biased variance, float64 [2, C].
        of_batch: they are :func:`batch_statistics` of the images, and their gradients follow them; else they are constants.
        relu: negative results become 0.
        residual: a tensor that lies as the images do and is added before the ReLU, which must be there.
    """
    assert is_innermost(images) and (residual is None or (relu and is_innermost(residual)))
    return _BatchNorm.apply(  # pyright: ignore[reportReturnType]
        kernels, images, weight, bias, residual, statistics, of_batch, eps, relu
    )
