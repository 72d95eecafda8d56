"""Convolutions without a mask that see images, so that what lies behind them has its samples innermost."""

from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.execution.convolution import StepProducts, convolve
from dist_sparse.execution.current import Current
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.kernels import DTYPES
from dist_sparse.execution.modules import geometry_of, qualifies
from dist_sparse.execution.passes import default_choice
from dist_sparse.execution.products import Products
from dist_sparse.execution.row_groups import GROUP, RowGroups
from dist_sparse.execution.structures import STREAMED_SAMPLES

_FEW_CHANNELS = 4
"""Images have no more: to convert them costs little of what it would to convert the result."""


class WholeProducts:
    """A convolution's products by all its weights, by geometry; none while the whole network is computed densely."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._made: dict[tuple[Geometry, int], Products] = {}

    def __deepcopy__(self, memo: object) -> "WholeProducts":
        """A copy of a network is computed as it is."""
        return WholeProducts(self._current)

    def __call__(self, geometry: Geometry, weight: Tensor) -> StepProducts | None:
        kernels = self._current.backend.kernels
        if kernels is None or not self._current.chosen():
            return None
        key = geometry, weight.element_size()
        if key not in self._made:
            mask = torch.ones(weight.shape, dtype=torch.bool)
            choice = default_choice(geometry, "row_groups", element_size=weight.element_size())
            self._made[key] = RowGroups(kernels, mask, geometry, choice)
        return StepProducts(self._made[key], self._made[key])


class InnermostConv2d(nn.Conv2d):
    """A convolution by all its weights, whose result has its samples innermost; torch's where that is not faster."""

    whole: WholeProducts

    def forward(self, input: Tensor) -> Tensor:
        if not self._takes(input) or (products := self.whole(geometry_of(self, input.shape), self.weight)) is None:
            return super().forward(input)
        out = convolve(input, self.weight, products)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def _takes(self, input: Tensor) -> bool:
        """Whether the kernels are fast with an input: samples fill their vectors. Under autocast torch computes in bf16."""
        kind = input.device.type
        if kind != "cpu" or torch.is_autocast_enabled(kind) or input.dtype not in DTYPES or input.dtype != self.weight.dtype:
            return False
        return input.dim() == 4 and input.shape[1] == self.in_channels and len(input) > 0 and len(input) % STREAMED_SAMPLES == 0


def sees_images(module: nn.Module) -> bool:
    """Whether :class:`InnermostConv2d` can compute a module, and it has so few channels as images have."""
    if type(module) is not nn.Conv2d or not qualifies(module):
        return False
    return module.in_channels <= _FEW_CHANNELS and module.out_channels % GROUP == 0


def give_innermost(module: nn.Module, whole: WholeProducts) -> None:
    """Change a module that :func:`sees_images`."""
    made: Any = module
    made.__class__, made.whole = InnermostConv2d, whole
