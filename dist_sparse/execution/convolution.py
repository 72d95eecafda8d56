"""A convolution by active weights as an operation of autograd, on ordinary tensors."""

from typing import Any, NamedTuple

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.geometry import channels_last, is_channels_last, is_innermost
from dist_sparse.execution.products import Products


class StepProducts(NamedTuple):
    """The products of a step: of the weights that are not 0, and of those whose gradients are needed (None: of all)."""

    forward: Products
    weights: Products | None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, pair: StepProducts) -> Tensor:
        products = pair.forward
        source = products.source(images)
        values = weight.detach().reshape(-1).index_select(0, products.positions.view(-1)).view(products.positions.shape)
        ctx.pair, ctx.weight_shape = pair, weight.shape
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
            of_weight = _of_weight(pair, source, read, gradient, ctx.weight_shape)
        return of_images, of_weight, None


def _of_weight(pair: StepProducts, source: Tensor, read: Tensor, gradient: Tensor, shape: Size) -> Tensor:
    """The gradient of the whole weight, 0 where it is not needed; the output's is ``read`` as products do, and as it came."""
    if pair.weights is None:
        return pair.forward.backward_all_weights(source, gradient).reshape(shape)
    of_values = pair.weights.backward_weights(source, read)
    of_weight = source.new_zeros(shape)
    of_weight.view(-1).index_add_(0, pair.weights.positions.view(-1), of_values.view(-1))
    return of_weight


def convolve(images: Tensor, weight: Tensor, pair: StepProducts) -> Tensor:
    """The convolution of images [N, in, H, W] of any memory format; the result has that of the products.

    The gradient of the weight is 0 where ``pair.weights`` have no products.
    """
    return _Convolution.apply(images, weight, pair)  # pyright: ignore[reportReturnType]
