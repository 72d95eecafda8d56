"""Pooling by a library of kernels beside torch's."""

import copy
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dist_sparse.execution.geometry import innermost, is_innermost
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.pool_modules import InnermostAdaptiveAvgPool2d, InnermostAvgPool2d, InnermostMaxPool2d

PAIR = st.tuples(st.integers(1, 4), st.integers(1, 4))
CASE: dict[str, Any] = {
    "samples": st.sampled_from([1, 3, 8, 16, 20, 32]),
    "channels": st.integers(1, 5),
    "size": st.tuples(st.integers(1, 13), st.integers(1, 13)),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
    "threads": st.integers(1, 3),
    "seed": st.integers(0, 2**31),
}
WINDOWS: dict[str, Any] = {
    "kernel_size": PAIR,
    "stride": PAIR,
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 2)),
    "ceil_mode": st.booleans(),
}
KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool2d: InnermostMaxPool2d,
    nn.AvgPool2d: InnermostAvgPool2d,
    nn.AdaptiveAvgPool2d: InnermostAdaptiveAvgPool2d,
}


def of_kernels(library: Kernels, module: nn.Module) -> nn.Module:
    """The same module with the forward of a network that computes sparsely."""
    made: Any = copy.deepcopy(module)
    made.__class__, made.kernels = KINDS[type(module)], library
    return made


def images_of(
    samples: int, channels: int, size: tuple[int, int], dtype: torch.dtype, threads: int, seed: int, *, ties: bool = False
) -> Tensor:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    images = torch.randn(samples, channels, *size, dtype=dtype)
    return images.round() if ties else images


def both(library: Kernels, module: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradient of the images, of the kernels and of torch."""
    found = []
    gradient = None
    for each, source in ((of_kernels(library, module), innermost(images)), (module, images)):
        leaf = source.detach().clone().requires_grad_()
        try:
            out = each(leaf)
        except RuntimeError:  # windows that torch refuses; the kernels' module asks it
            assume(False)
            raise
        gradient = torch.randn_like(out) if gradient is None else gradient
        out.backward(gradient)
        assert leaf.grad is not None
        found.append([out.detach(), leaf.grad])
    ours, torchs = found
    assert is_innermost(ours[0]) and type(ours[0]) is Tensor
    return ours, torchs


def check_max(library: Kernels, windows: dict[str, Any], special: bool, **case: Any) -> None:
    images = images_of(**case, ties=True)
    if special:
        images[torch.rand(images.shape) < 0.1] = float("nan")
        images[torch.rand(images.shape) < 0.3] = -float("inf")
    module = nn.MaxPool2d(**windows)
    torchs_way = of_kernels(library, module)
    assume(no_window_is_empty(images, module))
    ours, torchs = both(library, module, images)
    for mine, its in zip(ours, torchs, strict=True):
        assert torch.equal(mine.nan_to_num(77.0), its.nan_to_num(77.0))
    with torch.no_grad():
        assert torch.equal(torchs_way(innermost(images)).nan_to_num(77.0), torchs[0].nan_to_num(77.0))


def no_window_is_empty(images: Tensor, module: nn.MaxPool2d) -> bool:
    """With dilation a window may have all its elements in the padding; what torch makes of such ones is its own affair."""
    ones: Any = copy.deepcopy(module)
    try:
        return bool(ones(torch.ones_like(images)).eq(1).all())
    except RuntimeError:
        return False


def check_average(library: Kernels, module: nn.Module, **case: Any) -> None:
    images = images_of(**case)
    tolerance = 1e-5 if images.dtype == torch.float32 else 1e-12
    for mine, its in zip(*both(library, module, images), strict=True):
        torch.testing.assert_close(mine, its, rtol=tolerance, atol=tolerance)


def check_pooling(library: Kernels) -> None:
    """Max and average pooling over a few random windows."""

    @settings(max_examples=60)
    @given(windows=st.fixed_dictionaries(WINDOWS), special=st.booleans(), **CASE)
    def check_all(windows: dict[str, Any], special: bool, **case: Any) -> None:
        check_max(library, windows, special, **case)
        check_average(library, nn.AvgPool2d(**windows), **case)

    check_all()
