"""A convolution by active weights as an operation of autograd, on ordinary tensors."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.geometry import Geometry, channels_last, innermost, is_channels_last, is_innermost, padded


class Products(Protocol):
    """A mask's products in one geometry: :class:`.unstructured.Unstructured`, :class:`.row_groups.RowGroups`."""

    geometry: Geometry

    @property
    def positions(self) -> Tensor:
        """Where the values lie in the flattened weight, int32 of any shape; those of inactive weights are 0."""
        ...

    def forward(self, source: Tensor, values: Tensor) -> Tensor: ...

    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor: ...

    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor: ...


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, products: Products) -> Tensor:
        source = padded(innermost(images), *((pad, pad) for pad in products.geometry.padding))
        values = _flat(weight).index_select(0, products.positions.view(-1)).view(products.positions.shape)
        ctx.products, ctx.weight_shape = products, weight.shape
        ctx.channels_last = is_channels_last(images) and not is_innermost(images)
        ctx.save_for_backward(source, values)
        return products.forward(source, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        source, values = ctx.saved_tensors
        products, of_images, of_weight = ctx.products, None, None
        gradient = innermost(gradient)
        if ctx.needs_input_grad[0]:
            of_images = products.backward_input(gradient, values)
            if ctx.channels_last:  # what is behind may be slow, as torch's pooling, if the gradient has another format
                of_images = channels_last(of_images)
        if ctx.needs_input_grad[1]:
            of_values = products.backward_weights(source, gradient)
            of_weight = values.new_zeros(ctx.weight_shape)
            of_weight.view(-1).index_add_(0, products.positions.view(-1), of_values.view(-1))
        return of_images, of_weight, None


def convolve(images: Tensor, weight: Tensor, products: Products) -> Tensor:
    """The convolution of images [N, in, H, W] of any memory format; the result has its samples innermost.

    The gradient of the weight is that of the active weights, and of others of a row group; elsewhere it is 0.
    """
    return _Convolution.apply(images, weight, products)  # pyright: ignore[reportReturnType]


def _flat(weight: Tensor) -> Tensor:
    """A weight's numbers in the order [out, in, height, width], whatever its memory format."""
    return weight.detach().reshape(-1)
