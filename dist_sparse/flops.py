"""What a network costs: multiply-accumulates by layer, the cost of sparse training, and the table that a run prints first.

Counted are convolutions and linear layers, as in RigL's and GraNet's figures: ResNet-50 at 224x224 has 4,089,184,256 multiply-
accumulates (MACs), twice as many floating point operations (FLOPs). Norms, activations, pooling and attention products are not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dist_sparse.models.meta import ShapesOnly, meta_copy

_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


def layer_macs(model: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-accumulates of one image by weight, such as ``{"layer1.0.conv1.weight": 12845056}``, in the model's order.

    Every convolution and linear layer has an entry, 0 where a forward in evaluation mode does not use it. A layer that is used
    more than once, or on every token of a sequence, counts each time. No number is computed and ``model`` is left as it was.

    Args:
        input_shape: [channels, height, width] of an image.
    """
    twin = meta_copy(model).float()  # like the image; the counts are those of any dtype
    counter = _MacCounter(twin)
    with torch.no_grad(), ShapesOnly(), counter:
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


def training_cost(forward: float, weight_gradients: float) -> float:
    """Cost of training relative to dense training, as RigL (ICML 2020, arXiv 1911.11134) counts it.

    A step is three units of equal cost when all is dense: the forward, the gradient of the inputs, the gradient of the weights.
    The first two go by the weights that the forward uses. The last goes by the weights whose gradients the step needs: those
    of the forward; all of them where growth is scored by dense gradients; or a set between (Top-KAST's).

    Args:
        forward: MACs of the sparse forward over those of the dense one; where densities move, its mean over the run,
            in which a step counts as much as its images cost.
        weight_gradients: the same of the gradient of the weights. Equal to ``forward`` for static and SET; 1 for SNFS; for
            RigL, which needs all in one step of T + 1, ``forward + (1 - forward) / (T + 1)``.
    """
    return (2 * forward + weight_gradients) / 3


@dataclass(frozen=True)
class LayerRow:
    """A line of :func:`layer_table`. ``density`` is a fraction, ``active`` counts weights, ``macs`` are the dense layer's.

    Where it is known, ``computed`` is the way in which the layer is computed, and ``gain`` how many times as long its dense
    training step takes.
    """

    name: str
    shape: tuple[int, ...]
    density: float
    structure: str
    active: int
    macs: int
    computed: str = ""
    gain: float | None = None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    def cells(self) -> tuple[str, ...]:
        shape, cost = "x".join(map(str, self.shape)), self.macs * self.density / 1e6
        counts = f"{self.active:,}", f"{self.weights:,}", f"{cost:,.2f}"
        gain = "-" if self.gain is None else f"x{self.gain:.2f}"
        return self.name, shape, self.structure, f"{self.density:.4f}", *counts, self.computed or "-", gain


_WIDTH, _WIDER = 100, 120
_HEADER = ("layer", "shape", "structure", "density", "active", "weights", "MMACs", "computed", "gain")
_ALIGNED = "<<<>>>><>"
_PLAIN = 7
"""So many columns there are where nothing is known of how layers are computed."""


def layer_table(rows: Sequence[LayerRow], total_parameters: int) -> str:
    """A text table of the layers, with the network's parameters and FLOPs, sparse of dense.

    It is at most 100 columns wide, or 120 where it tells how layers are computed.

    Args:
        rows: every convolution and linear layer; ``structure`` is "-" where a layer has no mask.
        total_parameters: of the dense network, norms and biases included.
    """
    known = any(row.computed for row in rows)
    shown = len(_HEADER) if known else _PLAIN
    cells = [line[:shown] for line in (_HEADER, *(row.cells() for row in rows))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    name_width = min(widths[0], (_WIDER if known else _WIDTH) - sum(widths[1:]) - 2 * len(widths[1:]))
    template = f"{{:<{name_width}}}" + "".join(f"  {{:{_ALIGNED[i]}{width}}}" for i, width in enumerate(widths) if i)
    header, *lines = [template.format(shortened(name, name_width), *others) for name, *others in cells]
    rule = "-" * len(header)
    active = total_parameters - sum(row.weights - row.active for row in rows)
    dense, sparse = 2 * sum(row.macs for row in rows), round(2 * sum(row.macs * row.density for row in rows))
    totals = [_total("parameters", active, total_parameters), _total("FLOPs per image", sparse, dense)]
    return "\n".join([header, rule, *lines, rule, *totals])


def shortened(name: str, width: int) -> str:
    """A name that is too long loses its middle."""
    if len(name) <= width:
        return name
    head = max(0, width - 2) // 2
    return f"{name[:head]}..{name[head + 2 - width :]}"


def _total(what: str, sparse: int, dense: int) -> str:
    return f"{what:<16} {sparse:>18,} of {dense:>18,}  ({sparse / max(dense, 1):.2%})"
