"""A deferred norm gives what its tensor would, whatever is done with it."""

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.execution.deferred import DeferredNorm
from dist_sparse.execution.geometry import innermost
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.norm_modules import InnermostBatchNorm2d, NormReLU

Use = Callable[[Tensor, Tensor, nn.ReLU], Tensor]


def norm(*, defers: bool) -> InnermostBatchNorm2d:
    made = InnermostBatchNorm2d(3).double()
    made.kernels, made.defers = kernels(), defers
    nn.init.uniform_(made.weight)
    return made


def then(first: Callable[..., object], second: Use) -> Use:
    """One use after another of the same tensor."""
    return lambda out, residual, relu: (first(out, residual, relu), second(out, residual, relu))[1]


USES: dict[str, Use] = {
    "ReLU": lambda out, _, relu: relu(out),
    "sum and ReLU": lambda out, residual, relu: relu(out + residual),
    "sum from the right": lambda out, residual, relu: relu(residual + out),
    "sum by torch": lambda out, residual, relu: relu(torch.add(residual, out)),
    "sum by a method": lambda out, residual, relu: relu(residual.add(out)),
    "sum with a factor": lambda out, residual, relu: relu(torch.add(residual, out, alpha=3)),
    "sum in place": lambda out, residual, relu: relu(operator.iadd(out, residual)),
    "sum in the other's place": lambda out, residual, relu: relu(operator.iadd(residual * 1, out)),
    "two sums": lambda out, residual, relu: relu(out + residual + residual),
    "two sums in place": lambda out, residual, relu: relu(operator.iadd(operator.iadd(out, residual), residual)),
    "sum with another shape": lambda out, residual, relu: relu(out + residual[:, :1]),
    "sum with another layout": lambda out, residual, relu: relu(out + residual.contiguous()),
    "sum with a number": lambda out, _, relu: relu(out + 1) + relu(1 + out),
    "sum with itself": lambda out, _, relu: relu(out + out),
    "sum without ReLU": lambda out, residual, _: (out + residual).square(),
    "two ReLUs": lambda out, *_: NormReLU()(out) * NormReLU()(out),
    "ReLU, then the tensor": lambda out, _, relu: relu(out) * out,
    "sum, ReLU, then the tensor": lambda out, residual, relu: relu(out + residual) * out,
    "sum in place, ReLU, then the tensor": lambda out, residual, relu: relu(operator.iadd(out, residual)) * out,
    "the tensor, then a ReLU": then(lambda out, *_: out.mean(), lambda out, _, relu: relu(out)),
    "operators": lambda out, residual, _: (2 * out - 1) / (1 + abs(out)) - out**2 + (-out) * (1 - out) + residual,
    "an index": lambda out, *_: out[1:, :, 0],
    "functions": lambda out, residual, _: torch.cat([out, residual]).sum(1) + len(out),
    "attributes": lambda out, *_: out.flatten(1) * out.shape[1] + out.numel(),
    "comparisons": lambda out, *_: out * (out > 0) + out * (out <= -1),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_use_gives_the_same(use: Use, inplace: bool) -> None:
    found = []
    for defers in (False, True):
        torch.manual_seed(0)
        module = norm(defers=defers)
        images, residual = (innermost(torch.randn(4, 3, 5, 6, dtype=torch.float64)).requires_grad_() for _ in range(2))
        out = module(images)
        assert isinstance(out, DeferredNorm) == defers
        relu = NormReLU(inplace=inplace) if defers else nn.ReLU(inplace=inplace)
        result = use(out, residual, relu)
        gradients = torch.autograd.grad(result.sum(), (images, residual, *module.parameters()), allow_unused=True)
        found.append((result, *gradients, module.running_mean, module.running_var))
    for plain, deferred in zip(*found, strict=True):
        assert (plain is None and deferred is None) or torch.allclose(plain, deferred, rtol=1e-12, atol=1e-12)


def test_gradients_follow_the_mode_of_the_norm() -> None:
    module, images = norm(defers=True), innermost(torch.randn(4, 3, 5, 6, dtype=torch.float64))
    residual = torch.zeros_like(images).requires_grad_()
    with torch.no_grad():
        out = module(images)
    assert not NormReLU()(out).requires_grad
    assert (out + residual).requires_grad
    with torch.no_grad():
        later = module(images) + residual
    assert not NormReLU()(later).requires_grad


def test_a_residual_that_changed_is_found_out() -> None:
    images = innermost(torch.randn(4, 3, 5, 6, dtype=torch.float64))
    with torch.no_grad():
        out = norm(defers=True)(images) + (residual := images * 2)
        residual.zero_()
        with pytest.raises(AssertionError, match="residual changed"):
            NormReLU()(out)
