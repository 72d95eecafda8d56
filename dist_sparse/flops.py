"""What a network costs: multiply-accumulates by layer, the cost of sparse training, and the table that a run prints first.

Counted are convolutions and linear layers, as in RigL's and GraNet's figures: ResNet-50 at 224x224 has 4,089,184,256 multiply-
accumulates (MACs), twice as many floating point operations (FLOPs). Norms, activations, pooling and attention products are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dist_sparse.models.meta import meta_copy

_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


def layer_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-accumulates of one image by weight, such as ``{"layer1.0.conv1.weight": 12845056}``, in the model's order.

    Every convolution and linear layer has an entry, 0 where a forward in evaluation mode does not use it. A layer that is used
    more than once, or on every token of a sequence, counts each time. No number is computed and ``model`` is left as it was.

    Args:
        input_shape: [channels, height, width] of an image.
    """
    twin = meta_copy(model)
    counter = _MacCounter(twin)
    with torch.no_grad(), counter:
        twin(torch.empty(1, *input_shape, device="meta"))
    return counter.macs


class _MacCounter(TorchFunctionMode):
    """Counts the calls of convolution and linear functions by the name of their weight.

    Some networks hand a layer's weight to the function themselves (BEiT), others hand over a new tensor made from the weight
    (weight standardisation): the tensor's name is looked up first, then the layer that runs.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in model.named_parameters() if tensor.dim() > 1}
        self.macs: dict[str, int] = {}
        self.running: nn.Module | None = None
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if id(weight) in self.names and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                self.macs[self.names[id(weight)]] = 0
                module.register_forward_pre_hook(self._enter)

    def _enter(self, module: nn.Module, _: Any) -> None:
        self.running = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.linear or func in _CONVOLUTIONS or func in _TRANSPOSED:
            inputs, weight = _arguments(*args, **(kwargs or {}))
            source = weight if id(weight) in self.names or self.running is None else self.running.weight
            if (name := self.names.get(id(source))) is not None:
                positions = inputs if func in _TRANSPOSED else result
                channels = positions.shape[-1] if func is F.linear else positions.shape[1]
                self.macs[name] = self.macs.get(name, 0) + weight.numel() * (positions.numel() // channels)
        return result


def _arguments(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    return input, weight


def sparse_macs(macs: Mapping[str, int], densities: Mapping[str, float]) -> float:
    """Multiply-accumulates of one image with the layers at these densities; a layer that is not named is dense."""
    return sum(count * densities.get(name, 1.0) for name, count in macs.items())


def training_cost(forward: float, dense_gradient_share: float = 0.0) -> float:
    """Cost of training relative to dense training, from section 3 and appendix H of RigL (arXiv 1911.11134).

    A step is three units: forward, gradient of the inputs, gradient of the weights. All three scale with ``forward``, but the last is
    dense in those steps whose scores need it.

    Args:
        forward: multiply-accumulates of the sparse forward over those of the dense one; a mean over the run where density moves.
        dense_gradient_share: share of the steps with a dense gradient: 0 for static and SET, 1 for SNFS; for RigL, whose update every
            T steps is a step of its own, 1/(T+1).
    """
    return forward + dense_gradient_share * (1 - forward) / 3


@dataclass(frozen=True)
class LayerRow:
    """A line of :func:`layer_table`. ``density`` is a fraction, ``active`` counts weights, ``macs`` are the dense layer's."""

    name: str
    shape: tuple[int, ...]
    density: float
    structure: str
    active: int
    macs: int


def layer_table(rows: Sequence[LayerRow], total_parameters: int) -> str:
    """A text table of the layers at most 100 columns wide, with the network's parameters and FLOPs, sparse against dense.

    Args:
        rows: every convolution and linear layer; ``structure`` is "-" where a layer has no mask.
        total_parameters: of the dense network, norms and biases included.
    """
    weights = [torch.Size(row.shape).numel() for row in rows]
    cells = [("layer", "shape", "density", "structure", "active", "weights", "MMACs")]
    for row, total in zip(rows, weights, strict=True):
        shape = "x".join(map(str, row.shape))
        macs = f"{row.macs * row.density / 1e6:,.2f}"
        cells.append((row.name, shape, f"{row.density:.4f}", row.structure, f"{row.active:,}", f"{total:,}", macs))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = min(widths[0], 100 - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    rule = "-" * max(map(len, lines))
    active = total_parameters - sum(weights) + sum(row.active for row in rows)
    dense_flops, sparse_flops = 2 * sum(row.macs for row in rows), 2 * sum(row.macs * row.density for row in rows)
    return "\n".join(
        [
            lines[0],
            rule,
            *lines[1:],
            rule,
            f"parameters       {active:>14,} of {total_parameters:>14,} ({active / total_parameters:.2%})",
            f"FLOPs per image  {sparse_flops:>14,.0f} of {dense_flops:>14,} ({sparse_flops / max(dense_flops, 1):.2%})",
        ]
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Name, shape and structure to the left, numbers to the right; a long name loses its middle."""
    name = cells[0]
    if len(name) > widths[0]:
        head = (widths[0] - 2) // 2
        name = f"{name[:head]}..{name[head + 2 - widths[0] :]}"
    left = {0, 1, 3}
    texts = [name, *cells[1:]]
    return [f"{text:<{width}}" if i in left else f"{text:>{width}}" for i, (text, width) in enumerate(zip(texts, widths, strict=True))]
