"""How the kernels go over the positions of a layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dist_sparse.execution.geometry import Geometry, Phase, empty_innermost, padded
from dist_sparse.execution.structures import LARGE, STREAMED_SAMPLES, Pass


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the kernels go over the positions of a layer; each is right, and one the fastest on a machine."""

    forward: int = 4
    """Neighbouring positions at once, in the forward pass,"""
    backward: int = 4
    """for the gradient of the input,"""
    weights: int = 4
    """and for that of the weights."""
    forward_blocks: int = 1
    """Unstructured masks: blocks of input channels, one after another, forward and for the gradient of the weights;"""
    backward_blocks: int = 1
    """of output channels, for the gradient of the input."""
    streams: bool = False
    """Results go past the caches, in the forward pass,"""
    backward_streams: bool = False
    """and for the gradient of the input."""


Kind = Literal["unstructured", "row_groups"]


def default_choice(geometry: Geometry, kind: Kind, *, element_size: int = 4, density: float = 1.0) -> Choice:
    """A choice that was good on the machines where it was measured, with ResNet-50's layers.

    ``density`` is that of the mask, which unstructured masks alone depend on.
    """
    outputs = geometry.channels_out * geometry.samples * math.prod(geometry.out_size) * element_size
    inputs = geometry.channels_in * geometry.samples * math.prod(geometry.size) * element_size
    past_caches = {"streams": outputs >= LARGE, "backward_streams": inputs >= LARGE}
    if kind == "row_groups":
        return Choice(forward=3, backward=3, weights=_even(geometry, 5), **past_caches)
    return Choice(
        forward=2,
        backward=2,
        weights=2,
        forward_blocks=_blocks(geometry, geometry.channels_in, density),
        backward_blocks=_blocks(geometry, geometry.channels_out, density),
        **past_caches,
    )


def _even(geometry: Geometry, most: int) -> int:
    """Up to so many positions, so that a row's strips are about equally long."""
    width = geometry.out_size[1]
    return most if geometry.is_pointwise else -(-width // -(-width // most))


def _blocks(geometry: Geometry, channels: int, density: float) -> int:
    """More than one where a position's panel is large, as long as a row has entries enough in each block."""
    if geometry.kernel != (1, 1) or channels < _MANY_CHANNELS:
        return 1
    return max(1, min(_MOST_BLOCKS, round(channels * density / _ENTRIES)))


_MANY_CHANNELS, _ENTRIES, _MOST_BLOCKS = 512, 60, 4


def over_outputs(geometry: Geometry, positions: int, *, element_size: int, streams: bool = False) -> Pass:
    """Over all positions of the output; the input is padded."""
    panel = geometry.channels_in * geometry.samples
    out = geometry.channels_out * geometry.samples
    across = geometry.stride[1] * (positions - 1) + geometry.dilation[1] * (geometry.kernel[1] - 1) + 1
    made = Pass(
        reach_rows=geometry.kernel[0],
        reach_row=geometry.dilation[0] * geometry.padded[1] * panel * element_size,
        reach_start=across * panel * element_size,
        reach_bytes=geometry.stride[1] * positions * panel * element_size,
        shared_rows=geometry.dilation[0] * (geometry.kernel[0] - 1) // geometry.stride[0],
        in_row=geometry.stride[0] * geometry.padded[1] * panel,
        in_step=geometry.stride[1] * panel,
        out_row=geometry.out_size[1] * out,
        out_step=out,
        height=geometry.out_size[0],
        width=geometry.out_size[1],
        positions=positions,
        samples=geometry.samples,
        last_sample=geometry.samples,
        streams=streams and geometry.samples % STREAMED_SAMPLES == 0,
    )
    return _in_one_row(made) if geometry.is_pointwise else made


def over_inputs(geometry: Geometry, phase: Phase, positions: int, *, element_size: int, streams: bool = False) -> Pass:
    """Over the positions of the input that are of one phase; the output's gradient has the geometry's margins."""
    panel = geometry.channels_in * geometry.samples
    out = geometry.channels_out * geometry.samples
    below, across = (max(geometry.shifts(axis)) + geometry.margins[axis][0] for axis in range(2))
    row = (geometry.out_size[1] + sum(geometry.margins[1])) * out
    made = Pass(
        reach_rows=below + 1,
        reach_row=row * element_size,
        reach_start=(positions + across) * out * element_size,
        reach_bytes=positions * out * element_size,
        in_row=row,
        in_step=out,
        out_row=geometry.stride[0] * geometry.size[1] * panel,
        out_step=geometry.stride[1] * panel,
        height=phase.height,
        width=phase.width,
        positions=positions,
        samples=geometry.samples,
        last_sample=geometry.samples,
        streams=streams and geometry.samples % STREAMED_SAMPLES == 0,
    )
    return _in_one_row(made) if geometry.is_pointwise else made


def gradient_by_phase(
    geometry: Geometry, choice: Choice, gradient: Tensor, multiply: Callable[[int, Pass, Tensor, Tensor], None]
) -> Tensor:
    """The gradient [N, in, H, W] of the input from the output's [N, out, H, W], both with samples innermost.

    ``multiply(number of the phase, pass, source, target)`` computes the positions of one of the geometry's phases.
    """
    source = padded(gradient, *geometry.margins)
    target = empty_innermost(source, geometry.samples, geometry.channels_in, geometry.size)
    size, streams = source.element_size(), choice.backward_streams
    for number, phase in enumerate(geometry.phases):
        shape = over_inputs(geometry, phase, choice.backward, element_size=size, streams=streams)
        multiply(number, shape, source, target[:, :, phase.row :, phase.column :])
    return target


def _in_one_row(shape: Pass) -> Pass:
    """The same pass with fewer strips that are not whole."""
    shape.width, shape.height = shape.width * shape.height, 1
    return shape
