"""Batch norm, with a ReLU behind it if wanted, of tensors whose samples are innermost: what torch computes, in fewer passes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.geometry import is_innermost, rowwise
from dist_sparse.execution.kernels import Kernels


class _BatchNorm(torch.autograd.Function):
    """Statistics are those of the batch, or given."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        statistics: Tensor | None,
        eps: float,
        relu: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.kernels, ctx.of_batch = kernels, statistics is None
        mean, variance = kernels.channel_statistics(images) if statistics is None else statistics.double()
        inverse = (variance + eps).rsqrt()
        scale = weight.double() * inverse
        shift = bias.double() - mean * scale
        out = kernels.scale_and_shift(images, scale, shift, relu=relu)
        ctx.save_for_backward(images, weight, mean, inverse, *((scale, shift) if relu else ()))
        measured = torch.stack([mean, variance])
        ctx.mark_non_differentiable(measured)
        return out, measured

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
        images, weight, mean, inverse, *factors = ctx.saved_tensors
        relu = (factors[0], factors[1]) if factors else None
        gradient = rowwise(gradient)
        sums, products = ctx.kernels.gradient_sums(gradient, images, relu, mean)
        scale = weight.double() * inverse
        count = images.numel() // len(mean)
        by_images = -scale * inverse.square() * products / count if ctx.of_batch else torch.zeros_like(mean)
        constant = -scale * sums / count if ctx.of_batch else torch.zeros_like(mean)
        of_images = ctx.kernels.gradient_of_norm(gradient, images, relu, mean, (scale, by_images, constant))
        return None, of_images, (products * inverse).to(weight.dtype), sums.to(weight.dtype), None, None, None


def batch_norm(
    kernels: Kernels,
    images: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    statistics: Tensor | None = None,
    eps: float = 1e-5,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """``images`` [N, C, H, W], samples innermost, normalised by channel, scaled and shifted; and the statistics that were used.

    Args:
        statistics: mean and variance [2, C], such as the running ones; by default those of the batch.
        relu: negative results become 0.

    Returns:
        The result, samples innermost, and the mean and the (biased) variance, float64 [2, C], without gradients.
    """
    assert is_innermost(images)
    return _BatchNorm.apply(kernels, images, weight, bias, statistics, eps, relu)  # pyright: ignore[reportReturnType]
