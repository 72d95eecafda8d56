"""Whether an optimizer leaves masked entries alone, found out by trying."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from dist_sparse.config.schema import OptimConfig
from dist_sparse.engines.ddp import parameter_state
from dist_sparse.optim.optimizer import build_optimizer
from dist_sparse.seeding import generator

_STEPS = 7  # beyond the sixth, on which lookahead first moves its slow weights


@dataclass(frozen=True)
class ZeroPreservation:
    """What stays exactly zero where weight, gradient and state are zero."""

    weights: bool
    state: bool


def check_zero_preservation(config: OptimConfig, device: torch.device | str = "cpu") -> ZeroPreservation:
    """Whether the configured optimizer keeps masked weights and its own state at zero.

    Those that work entry by entry do. Muon, Kron and gradient centralisation mix the entries of a tensor, and some start
    their state from one or add to it every step: there the caller has to mask after the step.

    Raises:
        UserError: the optimizer cannot be built.
    """
    return try_zero_preservation(lambda model: build_optimizer(config, model, config.lr_batch_size or 1), device)


def try_zero_preservation(factory: Callable[[nn.Module], Optimizer], device: torch.device | str = "cpu") -> ZeroPreservation:
    """Take a few steps on a half-masked convolution [8, 8, 3, 3] and linear layer [8, 8], and look."""
    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.Linear(8, 8, bias=False)).to(device)
        draws = generator("zero preservation")
        active = {p: (torch.rand(p.shape, generator=draws) < 0.5).to(device) for p in model.parameters()}
        with torch.no_grad():
            for p, mask in active.items():
                p.copy_(torch.randn(p.shape, generator=draws).to(device) * mask)
        optimizer = factory(model)
        for _ in range(_STEPS):
            for p, mask in active.items():
                p.grad = torch.randn(p.shape, generator=draws).to(device) * mask
            optimizer.step()
    return ZeroPreservation(
        weights=all(_is_zero(p, ~mask) for p, mask in active.items()),
        state=all(
            _is_zero(value, ~mask)
            for p, mask in active.items()
            for value in parameter_state(optimizer)[p].values()
            if isinstance(value, torch.Tensor) and value.shape == p.shape
        ),
    )


def _is_zero(values: torch.Tensor, where: torch.Tensor) -> bool:
    return not values.detach()[where].count_nonzero()
