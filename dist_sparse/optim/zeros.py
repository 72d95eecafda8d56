"""What an optimizer does with masked entries, and whether it takes its arguments at all, found out by trying."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.config.schema import OptimConfig
from dist_sparse.engines.optimizer_state import parameter_state
from dist_sparse.errors import UserError
from dist_sparse.optim.optimizer import build_optimizer, for_trial, refused
from dist_sparse.seeding import generator

_STEPS = 7
_LOOKAHEAD = 6
"""Steps between two moves of lookahead's slow weights in a trial, which should see one."""

_TAME = 1e-3
"""A learning rate at which sound arguments keep weights finite."""


@dataclass(frozen=True)
class ZeroPreservation:
    """What stays exactly zero where weight, gradient and state are zero."""

    weights: bool
    state: bool
    finite: bool = True
    """No weight and no state has become infinite or NaN."""
    moves: bool = True
    """Some weight has changed."""


def check_zero_preservation(
    config: OptimConfig,
    device: torch.device | str = "cpu",
    *,
    batch_size: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> ZeroPreservation:
    """Whether the configured optimizer keeps masked weights and its own state at zero.

    Those that work entry by entry do. Muon, Kron and gradient centralisation mix the entries of a tensor, and some start
    their state from one or add to it every step: there the caller has to mask after the step.

    Raises:
        UserError: the optimizer cannot be built, refuses its arguments when it steps, or spoils or never changes the weights.
    """

    def tried(config: OptimConfig) -> ZeroPreservation:
        samples = batch_size or config.lr_batch_size or 1
        config = dataclasses.replace(for_trial(config), lookahead_k=min(config.lookahead_k, _LOOKAHEAD))
        return try_zero_preservation(lambda model: build_optimizer(config, model, samples), device, dtype)

    try:
        found = tried(config)
    except UserError:
        raise
    except Exception as error:  # optimizers check their arguments in every way there is, many only when they step
        raise refused(_blamed(config, tried), error) from error
    if not found.moves:
        raise UserError(
            f"optim.lr={config.lr:g} with optim.name={config.name} and optim.kwargs={config.kwargs} changes no weight: "
            f"{_STEPS} steps of a trial leave all as they were"
        )
    if found.finite:
        return found
    tame = tried(dataclasses.replace(config, lr=min(config.lr, _TAME), lr_batch_size=None))
    if not tame.finite:
        raise UserError(
            f"optim.name={config.name} with optim.kwargs={config.kwargs}, optim.momentum={config.momentum:g} and "
            f"optim.weight_decay={config.weight_decay:g}: weights or state are not finite after {_STEPS} steps of a trial"
        )
    return tame  # the rate is too high, which training itself may show


def _blamed(config: OptimConfig, tried: Callable[[OptimConfig], Any]) -> OptimConfig:
    """The configuration with the one argument that makes it fail, or with all where it is not one."""
    for name in config.kwargs:
        others = {key: value for key, value in config.kwargs.items() if key != name}
        try:
            tried(dataclasses.replace(config, kwargs=others))
        except Exception:
            continue
        return dataclasses.replace(config, kwargs={name: config.kwargs[name]})
    return config


def try_zero_preservation(
    factory: Callable[[nn.Module], Optimizer], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ZeroPreservation:
    """Take a few steps on a half-masked convolution [8, 8, 3, 3] and linear layer [8, 8] and their dense biases, and look."""
    with torch.random.fork_rng(devices=[]):
        model, active, drawn = _half_masked(device, dtype)
        with torch.no_grad():
            for p, mask in active.items():
                p *= mask
        before = [p.detach().clone() for p in active]
        optimizer = factory(model)
        for _ in range(_STEPS):
            for p, mask in active.items():
                p.grad = drawn(p.shape) * mask
            optimizer.step()
    states = [
        (value, mask)
        for p, mask in active.items()
        for value in parameter_state(optimizer)[p].values()
        if isinstance(value, Tensor)
    ]
    return ZeroPreservation(
        weights=all(_is_zero(p, ~mask) for p, mask in active.items()),
        state=all(_is_zero(value, ~mask) for value, mask in states if value.shape == mask.shape),
        finite=all(bool(value.isfinite().all()) for value in [*active, *(value for value, _ in states)]),
        moves=any(not torch.equal(p, old) for p, old in zip(active, before, strict=True)),
    )


def _half_masked(
    device: torch.device | str, dtype: torch.dtype
) -> tuple[nn.Module, dict[nn.Parameter, Tensor], Callable[[torch.Size], Tensor]]:
    """The model of a trial, a mask of each of its parameters, and what draws gradients."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(8, 8)).to(device, dtype)
    draws = generator("zero preservation")

    def drawn(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=draws).to(device, dtype)

    active = {p: ((torch.rand(p.shape, generator=draws) < 0.5) | (p.ndim == 1)).to(device) for p in model.parameters()}
    with torch.no_grad():
        for p in active:
            p.copy_(drawn(p.shape))
    return model, active, drawn


def check_untrained(config: OptimConfig, because: str, device: torch.device | str, dtype: torch.dtype) -> None:
    """Refuse with a UserError an optimizer that moves weights without a gradient, which ``because`` says is not to be."""
    if keeps_untrained(config, device, dtype=dtype):
        return
    guilty = config.lookahead and keeps_untrained(dataclasses.replace(config, lookahead=False), device, dtype=dtype)
    cause, other = ("lookahead=true", "lookahead=false") if guilty else (f"name={config.name}", "name=sgd or adamw")
    raise UserError(f"optim.{cause} cannot go with {because}: it moves weights that are not trained; optim.{other} leaves them")


def keeps_untrained(config: OptimConfig, device: torch.device | str = "cpu", *, dtype: torch.dtype = torch.float32) -> bool:
    """Whether weights that are not 0 stay as they are while they have no gradient, and their state is zeroed after each step.

    Weight decay aside, whose effect is the user's choice. Muon mixes the entries of a tensor, and lookahead and MADGRAD keep
    weights in their state.
    """
    config = dataclasses.replace(
        for_trial(config), lr=_TAME, lr_batch_size=None, weight_decay=0.0, lookahead_k=min(config.lookahead_k, _STEPS // 2)
    )
    with torch.random.fork_rng(devices=[]):
        model, active, drawn = _half_masked(device, dtype)
        before = [p.detach().clone() for p in active]
        optimizer = build_optimizer(config, model, 1)
        for _ in range(_STEPS):
            for p, mask in active.items():
                trained, gradient = p.detach() * mask, drawn(p.shape) * mask
                # As of a layer before a norm, by which AdamP and SGDP know that they may move the whole weight.
                p.grad = gradient - trained * (gradient * trained).sum() / trained.square().sum()
            optimizer.step()
            for p, mask in active.items():
                for value in parameter_state(optimizer)[p].values():
                    if isinstance(value, Tensor) and value.shape == mask.shape:
                        value *= mask
    return all(torch.equal(p[~mask], old[~mask]) for (p, mask), old in zip(active.items(), before, strict=True))


def _is_zero(values: Tensor, where: Tensor) -> bool:
    return not values.detach()[where].count_nonzero()
