"""A masked convolution by its active weights alone, one by one: any mask."""

from torch import Tensor

from dist_sparse.execution.geometry import Geometry, empty_innermost, padded
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.passes import Choice, gradient_by_phase, over_outputs
from dist_sparse.execution.products import InnermostProducts
from dist_sparse.execution.structures import Pass


class Unstructured(InnermostProducts):
    """The products of one mask in one geometry. Tensors are padded: [height, width, channels, samples]."""

    def __init__(self, kernels: Kernels, packed: Tensor, active: int, geometry: Geometry, choice: Choice) -> None:
        """``packed`` are the mask's bits in the order [out, in, height, width]."""
        self.geometry, self._kernels, self._choice = geometry, kernels, choice
        size = geometry.channels_out, geometry.columns
        area = geometry.kernel[0] * geometry.kernel[1]
        block = area * -(-geometry.channels_in // choice.forward_blocks)
        self._forward, self._positions = kernels.index_rows(packed, size, active, geometry.offsets, block)
        keys = geometry.keys, len(geometry.phases) * geometry.channels_in
        block = -(-geometry.channels_out // choice.backward_blocks)
        by_key = kernels.index_by_key(self._positions, size, keys, geometry.gradient_offsets, block)
        self._backward, self._entry = by_key

    @property
    def positions(self) -> Tensor:
        """Where the values lie in the flattened weight: int32 [active]."""
        return self._positions

    @property
    def index_bytes(self) -> int:
        """What the index structures hold."""
        held = (
            self.positions,
            self._entry,
            *(each for index in (self._forward, self._backward) for each in (index.start, index.offset)),
        )
        return sum(each.numel() * each.element_size() for each in held)

    def forward(self, source: Tensor, values: Tensor) -> Tensor:
        """The output [N, out, H, W], samples innermost, of a padded input and the active weights in the mask's order."""
        geometry = self.geometry
        target = empty_innermost(source, geometry.samples, geometry.channels_out, geometry.out_size)
        shape = over_outputs(geometry, self._choice.forward, element_size=source.element_size(), streams=self._choice.streams)
        self._kernels.multiply_rows(shape, source, target, self._forward, values)
        return target

    def backward_input(self, gradient: Tensor, values: Tensor) -> Tensor:
        """The gradient [N, in, H, W] of the input from the output's [N, out, H, W], both with samples innermost."""
        channels, by_key = self.geometry.channels_in, values.index_select(0, self._entry)

        def multiply(phase: int, shape: Pass, source: Tensor, target: Tensor) -> None:
            self._kernels.multiply_rows(shape, source, target, self._backward.part(phase * channels, channels), by_key)

        return gradient_by_phase(self.geometry, self._choice, gradient, multiply)

    def backward_weights(self, source: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of the active weights from the padded input and the output's gradient."""
        shape = over_outputs(self.geometry, self._choice.weights, element_size=source.element_size())
        return self._kernels.correlate_rows(shape, source, padded(gradient, (0, 0), (0, 0)), self._forward)
