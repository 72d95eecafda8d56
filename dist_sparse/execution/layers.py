"""The layers of a network that can be computed sparsely, each with the input that it sees."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn

from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.modules import DenseLayer, geometry_of
from dist_sparse.execution.prepare import qualifying
from dist_sparse.models.meta import ShapesOnly, meta_copy
from dist_sparse.sparsity.masks import Masks


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A masked layer in a network."""

    module: DenseLayer
    input: Size
    """The input's size in a micro-batch of training."""
    shape: Size
    """The weight's dense shape, however it is stored."""
    dtype: torch.dtype

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.module, self.input)

    @property
    def key(self) -> str:
        """What its speed depends on, as a text."""
        kind, shapes = "linear" if len(self.shape) == 2 else "convolution", f"{_by(self.shape)} in {_by(self.input)}"
        how = f"stride {_by(self.geometry.stride)} padding {_by(self.geometry.padding)} dilation {_by(self.geometry.dilation)}"
        return f"{kind} {shapes} {how} {str(self.dtype).removeprefix('torch.')}"

    @property
    def products(self) -> int:
        """Multiply-accumulates of a dense forward pass."""
        height, width = self.geometry.out_size
        return self.shape.numel() * self.geometry.samples * height * width

    def twin(self) -> DenseLayer:
        """A layer of the same kind and shape with weights of its own and no bias, computed by torch."""
        module = self.module
        if isinstance(module, nn.Linear):
            return nn.Linear(module.in_features, module.out_features, bias=False, dtype=module.weight.dtype)
        return nn.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # pyright: ignore[reportArgumentType]
            module.stride,  # pyright: ignore[reportArgumentType]
            module.padding,  # pyright: ignore[reportArgumentType]
            module.dilation,  # pyright: ignore[reportArgumentType]
            bias=False,
            dtype=module.weight.dtype,
        )


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def layers_of(model: nn.Module, masks: Masks, images: Size) -> dict[str, Layer]:
    """The masked layers that qualify and that a forward pass of images reaches, by the names of their weights.

    Nothing is computed but shapes.

    Args:
        images: [B, C, H, W], the shape of a micro-batch.
    """
    twin = meta_copy(model)
    seen: dict[str, Size] = {}

    def see(name: str) -> Any:
        def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, arguments[0].shape)

        return keep

    layers = qualifying(model, masks.names)
    for name, module in qualifying(twin, layers).items():
        module.register_forward_pre_hook(see(name))
    dtype = next(iter(layers.values())).weight.dtype if layers else torch.float32
    with torch.no_grad(), ShapesOnly():
        twin(torch.empty(images, dtype=dtype, device="meta"))
    return {name: _layer(layers[name], shape) for name, shape in seen.items()}


def _layer(module: DenseLayer, input: Size) -> Layer:
    return Layer(module=module, input=input, shape=module.weight.shape, dtype=module.weight.dtype)
