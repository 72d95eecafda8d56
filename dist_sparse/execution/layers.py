"""The layers of a network that can be computed sparsely, each with the input that it sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor, nn

from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.modules import SparseLayer, geometry_of
from dist_sparse.execution.prepare import qualifying
from dist_sparse.sparsity.masks import Masks


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A masked layer in a network."""

    module: SparseLayer
    input: Size
    """Of a micro-batch of training."""

    @property
    def geometry(self) -> Geometry:
        return geometry_of(self.module, self.input)

    @property
    def shape(self) -> Size:
        """The weight's shape."""
        return self.module.weight.shape

    @property
    def key(self) -> str:
        """What its speed depends on, as a text."""
        weight = self.module.weight
        kind, shapes = type(self.module).__bases__[0].__name__, f"{_by(weight.shape)} in {_by(self.input)}"
        how = f"stride {_by(self.geometry.stride)} padding {_by(self.geometry.padding)} dilation {_by(self.geometry.dilation)}"
        order = "" if weight.is_contiguous() else " channels last"
        return f"{kind} {shapes} {how} {str(weight.dtype).removeprefix('torch.')}{order}"

    @property
    def products(self) -> int:
        """Multiply-accumulates of a dense forward pass."""
        height, width = self.geometry.out_size
        return self.shape.numel() * self.geometry.samples * height * width

    def twin(self) -> nn.Module:
        """A layer of the same kind, shape and memory format with weights of its own and no bias, computed by torch."""
        module = self.module
        made = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # pyright: ignore[reportArgumentType]
            module.stride,  # pyright: ignore[reportArgumentType]
            module.padding,  # pyright: ignore[reportArgumentType]
            module.dilation,  # pyright: ignore[reportArgumentType]
            bias=False,
            dtype=module.weight.dtype,
        )
        return made if module.weight.is_contiguous() else made.to(memory_format=torch.channels_last)


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def layers_of(model: nn.Module, masks: Masks, images: Tensor) -> dict[str, Layer]:
    """The masked layers that qualify and that a forward pass of ``images`` reaches, by the names of their weights."""
    found: dict[str, Layer] = {}
    handles = []

    def see(name: str) -> Any:
        def keep(module: Any, arguments: tuple[Tensor, ...]) -> None:
            found.setdefault(name, Layer(module=module, input=arguments[0].shape))

        return keep

    for name, module in qualifying(model, masks.names).items():
        handles.append(module.register_forward_pre_hook(see(name)))
    modes: Mapping[nn.Module, bool] = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return found
