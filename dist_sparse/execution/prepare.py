"""Making a network compute sparsely: its modules' classes change, and with them their forward; nothing else does."""

from torch import Tensor, nn

from dist_sparse.execution.convolution import Products
from dist_sparse.execution.fusion import norms_before_relu
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.modules import InnermostBatchNorm2d, SkippedReLU, SparseConv2d, qualifies
from dist_sparse.execution.passes import default_choice
from dist_sparse.execution.row_groups import GROUP, RowGroups
from dist_sparse.execution.unstructured import Unstructured
from dist_sparse.sparsity.masks import Masks

_WORTHWHILE_FILL = 0.6
"""Row groups are faster than single weights if at least this share of their products is with active weights; about measured."""


class LayerProducts:
    """A layer's products by geometry, made anew once its masks have changed."""

    def __init__(self, kernels: Kernels, masks: Masks, name: str) -> None:
        self._kernels, self._masks, self._name = kernels, masks, name
        self._made: dict[Geometry, Products] = {}
        self._version = masks.version

    def __deepcopy__(self, memo: object) -> "LayerProducts":
        """A copy of the network has the same masks."""
        return LayerProducts(self._kernels, self._masks, self._name)

    def __call__(self, geometry: Geometry) -> Products:
        if self._version != self._masks.version:
            self._made.clear()
            self._version = self._masks.version
        if geometry not in self._made:
            self._made[geometry] = self._make(geometry)
        return self._made[geometry]

    def _make(self, geometry: Geometry) -> Products:
        mask = self._masks[self._name]
        if geometry.channels_out % GROUP == 0:
            groups = RowGroups(self._kernels, mask, geometry, default_choice(geometry, "row_groups"))
            if groups.fill > _WORTHWHILE_FILL:
                return groups
        packed, active = self._masks.packed()[self._name], self._masks.active()[self._name]
        return Unstructured(self._kernels, packed, active, geometry, default_choice(geometry, "unstructured"))


def prepare(model: nn.Module, masks: Masks, kernels: Kernels, images: Tensor) -> None:
    """Let the masked convolutions of a network compute by their active weights, and its batch norms keep their memory format.

    Nothing but classes of modules changes, and what they keep beside parameters and buffers: names, state and hooks stay.

    Args:
        images: [B, C, H, W], of a size that the network takes, to watch a forward pass of.
    """
    modules = dict(model.named_modules())
    fused = norms_before_relu(model, images)
    for name in masks.names:
        module = modules[name.removesuffix(".weight")]
        if qualifies(module):
            module.__class__ = SparseConv2d
            assert isinstance(module, SparseConv2d)
            module.products_of = LayerProducts(kernels, masks, name)
    for name, module in modules.items():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = InnermostBatchNorm2d
            assert isinstance(module, InnermostBatchNorm2d)
            module.kernels, module.relu = kernels, name in fused
        elif type(module) is nn.ReLU:
            module.__class__ = SkippedReLU
