"""How long layers and networks take on this machine: the least of a few times, which other work disturbs least."""

import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dist_sparse.execution.backends import Backend
from dist_sparse.execution.convolution import StepProducts
from dist_sparse.execution.costs import load_of
from dist_sparse.execution.geometry import innermost
from dist_sparse.execution.layers import Layer
from dist_sparse.execution.modules import make_sparse
from dist_sparse.execution.ways import LayerMask, Way
from dist_sparse.preemption import UntilAsked

_TIMES = 2
_LONG = 5.0


def seconds_of(act: Callable[[], object], times: int = _TIMES) -> float:
    """The least time of a few; one thread's own, which leaves out what else its core does."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    least = float("inf")
    for _ in range(times):
        start = clock()
        act()
        least = min(least, clock() - start)
    return least


def dense_cost(layer: Layer, *, channels_last: bool, within: bool) -> float:
    """Seconds of a layer's forward and backward pass by torch.

    Args:
        channels_last: images of the dense network have their channels last.
        within: the layer stands between sparse ones, whose tensors have their samples innermost.
    """
    twin = layer.twin()
    if channels_last and not within:
        twin = twin.to(memory_format=torch.channels_last)
    return _passes(twin, _images(layer, samples_innermost=within, channels_last=channels_last), convert=within)


def sparse_cost(backend: Backend, layer: Layer, way: Way, band: int, *, channels_last: bool) -> float:
    """The same by a sparse way, at a load within a band; ``channels_last`` if its images are not to have samples innermost."""
    generator = torch.Generator().manual_seed(0)
    mask = LayerMask.of(way.example(layer.shape, load_of(band), generator))
    products = way.products(mask, layer.geometry, layer.module.weight.element_size())
    images = _images(layer, samples_innermost=backend.innermost, channels_last=channels_last)
    module = make_sparse(layer.twin(), backend, lambda _: StepProducts(products, products))
    return _passes(module, images, convert=False)


def _images(layer: Layer, *, samples_innermost: bool, channels_last: bool) -> Tensor:
    """A layer's input in a memory format."""
    images = torch.randn(layer.input, dtype=layer.module.weight.dtype)
    if images.dim() != 4:
        return images
    if samples_innermost:
        return innermost(images)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


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


def network_seconds(model: nn.Module, step: Callable[[], object], until_asked: UntilAsked = iter) -> float:
    """The time of a ``step``, which leaves gradients, of a network whose buffers and gradients are then as before.

    A step that takes long is measured once; of others the first is a warm-up.
    """
    found: list[float] = []
    wanted = itertools.takewhile(lambda _: not found or found[0] <= _LONG, range(1 + _TIMES))
    buffers = [buffer.clone() for buffer in model.buffers()]
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()  # they would be added to, in place
    try:
        with torch.random.fork_rng(devices=[]):
            for _ in until_asked(wanted):
                found.append(seconds_of(step, times=1))
    finally:
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
    return min(found[1:] or found)
