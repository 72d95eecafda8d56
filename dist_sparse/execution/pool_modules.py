"""Pooling modules of a network that computes sparsely. By name and by state they are what they were."""

from torch import Tensor, nn

from dist_sparse.execution.deferred import computed
from dist_sparse.execution.geometry import Pair
from dist_sparse.execution.kernels import Kernels, takes
from dist_sparse.execution.pooling import MOST_ELEMENTS, Windows, average_pool, max_pool


class InnermostMaxPool2d(nn.MaxPool2d):
    """Max pooling that keeps tensors with samples innermost as they are."""

    kernels: Kernels

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        input = computed(input)
        if self.return_indices or not takes(input):
            return super().forward(input)
        windows = Windows(
            kernel=_pair(self.kernel_size),
            stride=_pair(self.stride),
            padding=_pair(self.padding),
            dilation=_pair(self.dilation),
            ceil_mode=self.ceil_mode,
        )
        if windows.elements > MOST_ELEMENTS or (grid := windows.over(input)) is None:
            return super().forward(input)
        return max_pool(self.kernels, input, grid)


class InnermostAvgPool2d(nn.AvgPool2d):
    """Average pooling that keeps tensors with samples innermost as they are."""

    kernels: Kernels

    def forward(self, input: Tensor) -> Tensor:
        input = computed(input)
        if self.divisor_override == 0 or not takes(input):
            return super().forward(input)
        windows = Windows(
            kernel=_pair(self.kernel_size),
            stride=_pair(self.stride),
            padding=_pair(self.padding),
            ceil_mode=self.ceil_mode,
        )
        if (grid := windows.over(input)) is None:
            return super().forward(input)
        counts = grid.counts(include_padding=self.count_include_pad, divisor=self.divisor_override, like=input)
        return average_pool(self.kernels, input, grid, counts)


class InnermostAdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average pooling to a size that divides the input's, such as to one position, of tensors with samples innermost."""

    kernels: Kernels

    def forward(self, input: Tensor) -> Tensor:
        input = computed(input)
        if not takes(input) or (windows := self._windows(input)) is None or (grid := windows.over(input)) is None:
            return super().forward(input)
        return average_pool(self.kernels, input, grid, grid.counts(include_padding=False, divisor=None, like=input))

    def _windows(self, input: Tensor) -> Windows | None:
        given = self.output_size if isinstance(self.output_size, tuple) else (self.output_size, self.output_size)
        sizes = list(zip(given, input.shape[2:], strict=True))
        if any(out is not None and (out < 1 or size % out) for out, size in sizes):
            return None
        height, width = (1 if out is None else size // out for out, size in sizes)
        return Windows(kernel=(height, width), stride=(height, width))


def _pair(size: int | tuple[int, ...]) -> Pair:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
