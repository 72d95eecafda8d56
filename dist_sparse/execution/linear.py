"""A linear layer by active weights as operations of autograd: a 1x1 convolution of its rows, taken as samples in blocks.

Block ``b`` of the input's rows [R, C] becomes position ``(0, b)`` of an image [samples, C, 1, blocks]; missing rows are zeros.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dist_sparse.execution.convolution import StepProducts, convolve
from dist_sparse.execution.geometry import Geometry, innermost
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.stored import WHOLE, Stored

_MOST_SAMPLES = 32


def linear_geometry(rows: int, channels_in: int, channels_out: int) -> Geometry:
    """The geometry of a linear layer that gets so many rows."""
    samples = next(size for size in (1, 2, 4, 8, 16, _MOST_SAMPLES) if size >= rows or size == _MOST_SAMPLES)
    return Geometry(
        channels_in=channels_in,
        channels_out=channels_out,
        kernel=(1, 1),
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        size=(1, -(-rows // samples)),
        samples=samples,
    )


class _Image(torch.autograd.Function):
    """Rows [R, C] as an image, samples innermost."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, samples: int, kernels: Kernels) -> Tensor:
        ctx.kernels, ctx.rows = kernels, len(rows)
        return _image(kernels.rows_to_blocks(rows.contiguous(), samples))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return ctx.kernels.blocks_to_rows(_blocks(gradient), ctx.rows, None), None, None


class _Rows(torch.autograd.Function):
    """The way back, with a bias [C] added if there is one."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, bias: Tensor | None, rows: int, kernels: Kernels) -> Tensor:
        ctx.kernels, ctx.samples = kernels, len(image)
        return kernels.blocks_to_rows(_blocks(image), rows, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        gradient, of_bias = gradient.contiguous(), None
        if ctx.needs_input_grad[1]:
            blocks, of_bias = ctx.kernels.rows_to_blocks_and_sums(gradient, ctx.samples)
        else:
            blocks = ctx.kernels.rows_to_blocks(gradient, ctx.samples)
        return _image(blocks), of_bias, None, None


def multiply(
    input: Tensor,
    parameter: Tensor,
    bias: Tensor | None,
    products: StepProducts,
    kernels: Kernels | None,
    stored: Stored = WHOLE,
) -> Tensor:
    """The product of an input [..., in] and a weight [out, in], plus the bias; ``products`` are those of the input's rows.

    The ``parameter`` is the weight, ``stored`` as it may be.

    ``kernels`` transpose the rows, and the results back, where the products' tensors have their samples innermost. The
    weight's gradient is that of :func:`.convolution.convolve`.
    """
    rows, width = input.reshape(-1, input.shape[-1]), products.forward.geometry.channels_out
    if kernels is None:  # tensors are taken as they come: a row is an image of one pixel
        out = convolve(rows[:, :, None, None], parameter, products, stored).view(*input.shape[:-1], width)
        return out if bias is None else out + bias
    images = _Image.apply(rows, products.forward.geometry.samples, kernels)
    out = convolve(images, parameter, products, stored)  # pyright: ignore[reportArgumentType]
    made = _Rows.apply(out, bias, len(rows), kernels)
    return made.view(*input.shape[:-1], width)  # pyright: ignore[reportOptionalMemberAccess]


def _image(blocks: Tensor) -> Tensor:
    return blocks.permute(2, 1, 0).unsqueeze(2)


def _blocks(image: Tensor) -> Tensor:
    return innermost(image).permute(2, 3, 1, 0)[0]
