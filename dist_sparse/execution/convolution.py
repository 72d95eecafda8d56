"""A convolution by active weights as an operation of autograd, on ordinary tensors."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Size, Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

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


class StepProducts(NamedTuple):
    """The products of a step: of the weights that are not 0, and of those whose gradients are needed (None: of all)."""

    forward: Products
    weights: Products | None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, pair: StepProducts) -> Tensor:
        products = pair.forward
        source = padded(innermost(images), *((pad, pad) for pad in products.geometry.padding))
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
        gradient = innermost(gradient)
        if ctx.needs_input_grad[0]:
            of_images = pair.forward.backward_input(gradient, values)
            if ctx.channels_last:  # what is behind may be slow, as torch's pooling, if the gradient has another format
                of_images = channels_last(of_images)
        if ctx.needs_input_grad[1]:
            of_weight = _of_weight(pair, source, gradient, ctx.weight_shape)
        return of_images, of_weight, None


def _of_weight(pair: StepProducts, source: Tensor, gradient: Tensor, shape: Size) -> Tensor:
    """The gradient of the whole weight, 0 where it is not needed."""
    if pair.weights is None:
        geometry, images = pair.forward.geometry, source.permute(3, 2, 0, 1)
        whole = (geometry.channels_out, geometry.channels_in, *geometry.kernel)
        how: dict[str, Any] = {"stride": geometry.stride, "dilation": geometry.dilation}
        return conv2d_weight(images, whole, gradient, **how).reshape(shape)
    of_values = pair.weights.backward_weights(source, gradient)
    of_weight = source.new_zeros(shape)
    of_weight.view(-1).index_add_(0, pair.weights.positions.view(-1), of_values.view(-1))
    return of_weight


def convolve(images: Tensor, weight: Tensor, pair: StepProducts) -> Tensor:
    """The convolution of images [N, in, H, W] of any memory format; the result has its samples innermost.

    The gradient of the weight is 0 where ``pair.weights`` have no products.
    """
    return _Convolution.apply(images, weight, pair)  # pyright: ignore[reportReturnType]
