"""Whether an optimizer can step flat pieces of parameters instead of parameters, found out by trying."""

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Optimizer

from dist_sparse.config.schema import OptimConfig
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.errors import UserError
from dist_sparse.optim.optimizer import build_optimizer, for_trial
from dist_sparse.seeding import generator

_STEPS = 3


def check_flattenable(config: OptimConfig, engine: Capabilities) -> None:
    """Refuse optimizers that pieces of weights, as ZeRO's flat vectors, would change without a word.

    Muon, Adafactor, LAMB, LARS and the like look at a parameter's shape, its rows or its norm, of which a piece knows nothing.
    Lookahead keeps copies of parameters that DeepSpeed takes apart, and DeepSpeed replaces torch's Adagrad by one of its own.

    Raises:
        UserError: the optimizer does not step every weight by itself.
    """
    if _steps_pieces_alike(config):
        return
    name = f"optim.name={config.name}{' with optim.lookahead=true' if config.lookahead else ''}"
    raise UserError(
        f"{name}: does not step every weight by itself, as {engine.cause} needs; "
        f"{engine.otherwise} takes it, and sgd, momentum, adamw, lion and the like step every weight by itself"
    )


def _steps_pieces_alike(config: OptimConfig) -> bool:
    if config.lookahead:
        return False
    draws = generator("flat pieces")
    start, *gradients = (torch.randn(160, 130, generator=draws) for _ in range(_STEPS + 1))
    with torch.random.fork_rng(devices=[]):
        whole, optimizer = _stepped(config, [start], [[gradient] for gradient in gradients])
        # Columns [n, 1], so that weight decay sees weights.
        pieces, _ = _stepped(config, _cut(start), [_cut(gradient) for gradient in gradients])
    return not isinstance(optimizer, Adagrad) and torch.allclose(whole, pieces, rtol=1e-5, atol=1e-7)


def _cut(tensor: Tensor) -> list[Tensor]:
    return [piece.reshape(-1, 1) for piece in tensor.reshape(-1).split([101, 20_699])]


def _stepped(config: OptimConfig, start: list[Tensor], gradients: list[list[Tensor]]) -> tuple[Tensor, Optimizer]:
    """The weights after a few steps, flat."""
    model = nn.ParameterList([nn.Parameter(tensor.clone()) for tensor in start])
    optimizer = build_optimizer(for_trial(config), model, config.lr_batch_size or 1)
    for step in gradients:
        for parameter, gradient in zip(model, step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return torch.cat([parameter.detach().view(-1) for parameter in model]), optimizer
