"""How the kernels go over the positions of a layer."""

from dataclasses import dataclass

from dist_sparse.execution.geometry import Geometry, Phase
from dist_sparse.execution.kernels import Pass


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the kernels go over the positions of a layer; each is right, and one the fastest on a machine."""

    forward: int = 4
    """Neighbouring positions at once, in the forward pass,"""
    backward: int = 4
    """for the gradient of the input,"""
    weights: int = 4
    """and for that of the weights."""
    streams: bool = False
    """Results go past the caches."""


def over_outputs(geometry: Geometry, positions: int, *, element_size: int, streams: bool = False) -> Pass:
    """Over all positions of the output; the input is padded."""
    panel = geometry.channels_in * geometry.samples
    out = geometry.channels_out * geometry.samples
    across = geometry.stride[1] * (positions - 1) + geometry.dilation[1] * (geometry.kernel[1] - 1) + 1
    return Pass(
        reach_rows=geometry.kernel[0],
        reach_row=geometry.dilation[0] * geometry.padded[1] * panel * element_size,
        reach_start=across * panel * element_size,
        reach_bytes=geometry.stride[1] * positions * panel * element_size,
        in_row=geometry.stride[0] * geometry.padded[1] * panel,
        in_step=geometry.stride[1] * panel,
        out_row=geometry.out_size[1] * out,
        out_step=out,
        height=geometry.out_size[0],
        width=geometry.out_size[1],
        positions=positions,
        samples=geometry.samples,
        last_sample=geometry.samples,
        streams=streams and geometry.samples % 16 == 0,
    )


def over_inputs(geometry: Geometry, phase: Phase, positions: int, *, element_size: int, streams: bool = False) -> Pass:
    """Over the positions of the input that are of one phase; the output's gradient has the geometry's margins."""
    panel = geometry.channels_in * geometry.samples
    out = geometry.channels_out * geometry.samples
    below, across = (max(geometry.shifts(axis)) + geometry.margins[axis][0] for axis in range(2))
    row = (geometry.out_size[1] + sum(geometry.margins[1])) * out
    return Pass(
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
        streams=streams and geometry.samples % 16 == 0,
    )


def with_gradient_ahead(shape: Pass, *, element_size: int) -> Pass:
    """The same pass where it is the output's gradient that is read and the input's that is written."""
    shape.reach_rows, shape.reach_row = 1, 0
    shape.reach_start = shape.reach_bytes = shape.positions * shape.out_step * element_size
    return shape
