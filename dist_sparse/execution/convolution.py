"""A convolution by active weights as an operation of autograd, on ordinary tensors."""

from typing import Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.geometry import channels_last, is_channels_last, is_innermost
from dist_sparse.execution.products import Products
from dist_sparse.execution.stored import WHOLE, Stored


class StepProducts(NamedTuple):
    """The products of a step: of the weights that are not 0, and of those whose gradients are needed (None: of all)."""

    forward: Products
    weights: Products | None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, parameter: Tensor, pair: StepProducts, stored: Stored) -> Tensor:
        products = pair.forward
        source = products.source(images)
        values = stored.values(parameter.detach(), products)
        ctx.pair, ctx.stored, ctx.shape = pair, stored, parameter.shape
        ctx.channels_last = is_channels_last(images) and not is_innermost(images)
        ctx.save_for_backward(source, values)
        return products.forward(source, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        source, values = ctx.saved_tensors
        pair, of_images, of_weight = ctx.pair, None, None
        read = pair.forward.gradient(gradient)
        if ctx.needs_input_grad[0]:
            of_images = pair.forward.backward_input(read, values)
            if ctx.channels_last:  # what is behind may be slow, as torch's pooling, if the gradient has another format
                of_images = channels_last(of_images)
        if ctx.needs_input_grad[1]:
            if pair.weights is not None and pair.weights is not pair.forward:
                read = pair.weights.gradient(gradient)
            of_weight = _of_weight(pair, ctx.stored, source, read, gradient, ctx.shape)
        return of_images, of_weight, None, None


def _of_weight(pair: StepProducts, stored: Stored, source: Tensor, read: Tensor, gradient: Tensor, shape: Size) -> Tensor:
    """The parameter's gradient, 0 where it is not needed; the output's is ``read`` as products do, and as it came."""
    if pair.weights is None:
        return stored.gradient_of_all(shape, pair.forward.backward_all_weights(source, gradient))
    return stored.gradient(shape, pair.weights, pair.weights.backward_weights(source, read))


def convolve(images: Tensor, parameter: Tensor, pair: StepProducts, stored: Stored = WHOLE) -> Tensor:
    """The convolution of images [N, in, H, W] of any memory format; the result has that of the products.

    The gradient of the weight is 0 where ``pair.weights`` have no products.

    Args:
        parameter: the weight, ``stored`` as it may be.
    """
    return _Convolution.apply(images, parameter, pair, stored)  # pyright: ignore[reportReturnType]
