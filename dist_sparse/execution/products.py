"""What the products of a mask in one geometry are, whatever computes them."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor
from torch.nn.grad import conv2d_weight

from dist_sparse.execution.geometry import Geometry, innermost, padded


class Products(ABC):
    """A mask's products in one geometry. Images are [N, in, H, W] of any memory format, gradients of the output alike."""

    geometry: Geometry

    @property
    @abstractmethod
    def positions(self) -> Tensor:
        """Where the values lie in the flattened weight, int32 of any shape; those of inactive weights are 0."""

    @property
    @abstractmethod
    def index_bytes(self) -> int:
        """What the index structures hold."""

    @abstractmethod
    def source(self, images: Tensor) -> Tensor:
        """Images as :meth:`forward` and :meth:`backward_weights` read them."""

    @abstractmethod
    def gradient(self, gradient: Tensor) -> Tensor:
        """The output's gradient as :meth:`backward_input` and :meth:`backward_weights` read it."""

    @abstractmethod
    def forward(self, source: Tensor, values: Tensor) -> Tensor:
        """The output [N, out, H, W]."""

    @abstractmethod
    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor:
        """The gradient [N, in, H, W] of the images."""

    @abstractmethod
    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the values."""

    @abstractmethod
    def backward_all_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of all weights [out, in, height, width], from the output's as it came."""


class InnermostProducts(Products):
    """Products on tensors with samples innermost, of images between their zeros."""

    def source(self, images: Tensor) -> Tensor:
        return padded(innermost(images), *((pad, pad) for pad in self.geometry.padding))

    def gradient(self, gradient: Tensor) -> Tensor:
        return innermost(gradient)

    def backward_all_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        return dense_weight_gradient(self.geometry, source.permute(3, 2, 0, 1), gradient, padding=(0, 0))


def dense_weight_gradient(geometry: Geometry, images: Tensor, gradient: Tensor, padding: tuple[int, int]) -> Tensor:
    """By torch, of all weights."""
    whole = (geometry.channels_out, geometry.channels_in, *geometry.kernel)
    how: dict[str, Any] = {"stride": geometry.stride, "padding": padding, "dilation": geometry.dilation}
    return conv2d_weight(images, whole, gradient, **how)
