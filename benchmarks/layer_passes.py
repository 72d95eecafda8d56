"""Single layers of a network, pass by pass: by active weights, densely by torch, and as others compute them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.sparse_peers import PEERS
from dist_sparse.execution.backends import Backend
from dist_sparse.execution.current import Chosen
from dist_sparse.execution.geometry import innermost, padded
from dist_sparse.execution.layers import Layer
from dist_sparse.execution.ways import LayerMask

PASSES = ("forward", "input gradient", "weight gradient")
_PRODUCT = 2048
"""Rows of the square matrices whose product tells what the machine can."""

Calls = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class MaskedLayer:
    """A layer with its mask, and the way in which it is computed sparsely."""

    name: str
    layer: Layer
    mask: LayerMask
    chosen: Chosen

    @property
    def density(self) -> float:
        return self.mask.density

    @property
    def operations(self) -> float:
        """Floating-point operations of one pass with active weights."""
        return 2 * self.layer.products * self.density


def peak(rounds: int, clock: Callable[[], float]) -> float:
    """Operations a second of torch's own product of two large matrices, the fastest of some."""
    a, b = torch.randn(2, _PRODUCT, _PRODUCT)
    seconds = timing.interleaved({"product": lambda: a @ b}, rounds, clock=clock).seconds["product"]
    return 2 * _PRODUCT**3 / min(seconds)


def measure(layers: Sequence[MaskedLayer], backend: Backend, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """One row for each layer: medians of ratios within a round, and rates in GFLOP/s of active weights."""
    return [_row(each, timing.interleaved(_calls(each, backend), rounds, clock=clock)) for each in layers]


def measure_peers(
    layers: Sequence[MaskedLayer], backend: Backend, rounds: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """Forward and backward of each layer together, by autograd: seconds of the dense layer over those of the others."""
    rows = []
    for each in layers:
        twin, images, gradient = _twin(each), *_tensors(each.layer)
        networks: dict[str, nn.Module] = {"dense": twin}
        networks |= {name: peer for name, make in PEERS.items() if (peer := make(twin)) is not None}
        timings = timing.interleaved(
            {name: _both(module, images, gradient) for name, module in networks.items()}, rounds, clock=clock
        )
        passes = timing.interleaved(_calls(each, backend), rounds, clock=clock).seconds
        own = sum(median(passes[f"sparse {which}"]) for which in PASSES)
        row = {"layer": each.name, "shape": list(each.layer.shape), "density": each.density}
        row["dense_over_sparse"] = median(timings.seconds["dense"]) / own
        rows.append(row | {f"dense_over_{name}": median(timings.ratios("dense", name)) for name in networks if name != "dense"})
    return rows


def table(rows: Sequence[Mapping[str, Any]], peak: float) -> str:
    """A table of what :func:`measure` gives; rates also as a share of the ``peak``."""
    lines = [["layer", "shape", "density", "computed", "dense / sparse", *PASSES, "GFLOP/s", "of the peak"], ["---"] * 10]
    for row in rows:
        passes = [f"{row['passes'][which]['dense_over_sparse']:.1f}" for which in PASSES]
        rates = [row["passes"][which]["gflops"] for which in PASSES]
        shares = (f"{' / '.join(f'{rate:.0f}' for rate in rates)}", f"{3e9 / sum(1 / rate for rate in rates) / peak:.2f}")
        lines.append([*_head(row), row["way"], f"{row['dense_over_sparse']:.1f}", *passes, *shares])
    return (
        f"{_markdown(lines)}\n\nThe peak is torch's product of two {_PRODUCT} x {_PRODUCT} matrices: {peak / 1e9:.0f} GFLOP/s."
    )


def peer_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of what :func:`measure_peers` gives."""
    others = [name for name in PEERS if any(f"dense_over_{name}" in row for row in rows)]
    lines = [["forward and backward: dense / ", "shape", "density", "ours", *others], ["---"] * (4 + len(others))]
    for row in rows:
        figures = [f"{row[key]:.2f}" if (key := f"dense_over_{name}") in row else "" for name in ("sparse", *others)]
        lines.append([*_head(row), *figures])
    return _markdown(lines)


def _head(row: Mapping[str, Any]) -> list[str]:
    return [row["layer"], "x".join(map(str, row["shape"])), f"{row['density']:.3f}"]


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(each: MaskedLayer, timings: timing.Timings) -> dict[str, Any]:
    seconds = {which: median(timings.seconds[f"sparse {which}"]) for which in PASSES}
    dense = sum(median(timings.seconds[f"dense {which}"]) for which in PASSES)
    return {
        "layer": each.name,
        "shape": list(each.layer.shape),
        "density": each.density,
        "way": each.chosen.way,
        "dense_over_sparse": dense / sum(seconds.values()),
        "passes": {
            which: {
                "dense_over_sparse": median(timings.ratios(f"dense {which}", f"sparse {which}")),
                "gflops": each.operations / seconds[which] / 1e9,
            }
            for which in PASSES
        },
    }


def _calls(each: MaskedLayer, backend: Backend) -> Calls:
    calls = {f"dense {which}": call for which, call in zip(PASSES, _dense(each), strict=True)}
    return calls | {f"sparse {which}": call for which, call in zip(PASSES, _sparse(each, backend), strict=True)}


def _tensors(layer: Layer) -> tuple[Tensor, Tensor]:
    """An input and a gradient of the output; images have their channels last."""
    with torch.no_grad():
        images = torch.randn(layer.input)
        gradient = torch.randn_like(layer.twin()(images))
    if images.dim() == 4:
        return tuple(each.contiguous(memory_format=torch.channels_last) for each in (images, gradient))  # type: ignore[return-value]
    return images, gradient


def _twin(each: MaskedLayer) -> nn.Linear | nn.Conv2d:
    """A dense layer whose inactive weights are 0."""
    twin, mask = each.layer.twin(), each.mask.matrix.view(each.mask.shape)
    twin.weight.data.mul_(mask)
    return twin if isinstance(twin, nn.Linear) else twin.to(memory_format=torch.channels_last)


def _dense(each: MaskedLayer) -> tuple[Callable[[], Tensor], ...]:
    twin, (images, gradient) = _twin(each), _tensors(each.layer)
    weight = twin.weight.detach()
    if isinstance(twin, nn.Linear):
        rows, of_rows = images.flatten(0, -2), gradient.flatten(0, -2)
        return lambda: rows @ weight.T, lambda: of_rows @ weight, lambda: of_rows.T @ rows
    how = (None, twin.stride, twin.padding, twin.dilation)

    def backward(*wanted: bool) -> Tensor:
        made = torch.ops.aten.convolution_backward(gradient, images, weight, *how, False, [0, 0], 1, [*wanted, False])
        return made[wanted.index(True)]

    return lambda: torch.conv2d(images, weight, *how), lambda: backward(True, False), lambda: backward(False, True)


def _sparse(each: MaskedLayer, backend: Backend) -> tuple[Callable[[], Tensor], ...]:
    """Convolutions on tensors as they lie between sparse layers; a linear layer's conversions of rows are in its passes."""
    geometry, (images, gradient) = each.layer.geometry, _tensors(each.layer)
    products = backend.ways[each.chosen.way].products(each.mask, geometry, images.element_size())
    kernels = backend.kernels
    assert kernels is not None
    values = _twin(each).weight.detach().reshape(-1)[products.positions.long()]
    if images.dim() == 4:
        source = padded(innermost(images), *((pad, pad) for pad in geometry.padding))
        lying = innermost(gradient)
        return (
            lambda: products.forward(source, values),
            lambda: products.backward_input(lying, values),
            lambda: products.backward_weights(source, lying),
        )
    rows, of_rows = images.flatten(0, -2), gradient.flatten(0, -2)

    def image(of: Tensor) -> Tensor:
        return kernels.rows_to_blocks(of, geometry.samples).permute(2, 1, 0).unsqueeze(2)

    def back(of: Tensor) -> Tensor:
        return kernels.blocks_to_rows(of.permute(2, 3, 1, 0)[0], len(rows), None)

    source, lying = padded(image(rows), (0, 0), (0, 0)), image(of_rows)
    return (
        lambda: back(products.forward(padded(image(rows), (0, 0), (0, 0)), values)),
        lambda: back(products.backward_input(image(of_rows), values)),
        lambda: products.backward_weights(source, lying),
    )


def _both(module: nn.Module, images: Tensor, gradient: Tensor) -> Callable[[], None]:
    images = images.detach().clone().requires_grad_()

    def run() -> None:
        images.grad = None
        module.zero_grad()
        module(images).backward(gradient)

    return run
