"""How long layers and networks take on this machine: the least of a few times, which other work disturbs least."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dist_sparse.execution.convolution import StepProducts
from dist_sparse.execution.costs import Cost, load_of
from dist_sparse.execution.geometry import innermost
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.layers import Layer
from dist_sparse.execution.modules import make_sparse
from dist_sparse.execution.passes import Choice
from dist_sparse.execution.ways import LayerMask, Way

_POSITIONS = (1, 2, 3, 4, 8)
_TIMES = 2
_LONG = 5.0


def seconds_of(act: Callable[[], object], times: int = _TIMES) -> float:
    """The least time of a few."""
    least = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        act()
        least = min(least, time.perf_counter() - start)
    return least


def dense_cost(layer: Layer, *, channels_last: bool, within: bool) -> Cost:
    """A layer's forward and backward pass by torch.

    Args:
        channels_last: images of the dense network have their channels last.
        within: the layer stands between sparse ones, whose tensors have their samples innermost.
    """
    images = torch.randn(layer.input, dtype=layer.module.weight.dtype)
    if within and images.dim() == 4:
        images = innermost(images)
    elif channels_last and images.dim() == 4:
        images = images.contiguous(memory_format=torch.channels_last)
    return Cost(seconds=_passes(layer.twin(), images, convert=within))


def sparse_cost(kernels: Kernels, layer: Layer, way: Way, band: int) -> Cost:
    """The same by a sparse way, at a load within a band, with the best of several numbers of positions at once."""
    generator = torch.Generator().manual_seed(0)
    mask = LayerMask.of(way.example(layer.shape, load_of(band), generator))
    choice = _best_choice(kernels, layer, way, mask)
    products = way.products(kernels, mask, layer.geometry, choice)
    images = torch.randn(layer.input, dtype=layer.module.weight.dtype)
    module = make_sparse(layer.twin(), kernels, lambda _: StepProducts(products, products))
    return Cost(seconds=_passes(module, innermost(images) if images.dim() == 4 else images, convert=False), choice=choice)


def _passes(module: nn.Module, images: Tensor, *, convert: bool) -> float:
    """Seconds of a forward and a backward pass; ``convert`` the results to samples innermost, and the gradient back."""
    images.requires_grad_()

    def forward() -> Tensor:
        out = module(images)
        return innermost(out) if convert and out.dim() == 4 else out

    gradient = torch.randn_like(forward().detach())

    def both() -> None:
        images.grad = None
        module.zero_grad()
        forward().backward(gradient)

    return seconds_of(both)


def _best_choice(kernels: Kernels, layer: Layer, way: Way, mask: LayerMask) -> Choice:
    """Each pass with the number of positions that is fastest for it."""
    geometry, dtype = layer.geometry, layer.module.weight.dtype
    source = torch.randn(*geometry.padded, geometry.channels_in, geometry.samples, dtype=dtype)
    gradient = innermost(torch.randn(geometry.samples, geometry.channels_out, *geometry.out_size, dtype=dtype))
    default = layer.default_choice(way)
    best = {name: (float("inf"), 0) for name in ("forward", "backward", "weights")}
    for positions in sorted({*_POSITIONS, *(getattr(default, name) for name in best)}):
        choice = dataclasses.replace(default, **dict.fromkeys(best, positions))
        products = way.products(kernels, mask, geometry, choice)
        values = torch.randn(products.positions.shape, dtype=dtype)
        passes = {
            "forward": partial(products.forward, source, values),
            "backward": partial(products.backward_input, gradient, values),
            "weights": partial(products.backward_weights, source, gradient),
        }
        best = {name: min(found, (seconds_of(passes[name]), positions)) for name, found in best.items()}
    return dataclasses.replace(default, **{name: positions for name, (_, positions) in best.items()})


def network_seconds(model: nn.Module, step: Callable[[], object]) -> float:
    """The time of a ``step``, which leaves gradients, of a network whose buffers and gradients are then as before.

    A step that takes long is measured once.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    gradients = [parameter.grad for parameter in model.parameters()]
    try:
        with torch.random.fork_rng(devices=[]):
            first = seconds_of(step, times=1)
            return first if first > _LONG else seconds_of(step)
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
