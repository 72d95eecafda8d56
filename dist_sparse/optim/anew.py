"""Whether a parameter's part of an optimizer's state begins anew where it is set to zero, found out by trying."""

import torch
from torch import nn

from dist_sparse.config.schema import OptimConfig
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.engines.optimizer_state import parameter_state
from dist_sparse.errors import UserError
from dist_sparse.optim.optimizer import build_optimizer, for_trial
from dist_sparse.seeding import generator

_BEFORE, _AFTER = 3, 2


def check_exchangeable(config: OptimConfig, engine: Capabilities, why: str) -> None:
    """Refuse optimizers whose state of a parameter cannot begin anew or be exchanged for another; ``why`` it has to be.

    ZeRO steps the parameters of a group as one vector: a count of steps, as Adam's for its bias correction, is that of all.

    Raises:
        UserError: the state is not all in entries for every weight that begin at zero.
    """
    if _begins_at_zero(config):
        return
    raise UserError(
        f"optim.name={config.name}: {why}, and {engine.cause} keeps one count of steps for all; "
        f"{engine.otherwise} takes it, and sgd, momentum and lion go with all"
    )


def _begins_at_zero(config: OptimConfig) -> bool:
    """Compare steps after the state was taken away with those after all of its entries were set to zero."""
    with torch.random.fork_rng(devices=[]):
        return torch.equal(_last_step(config, take_away=True), _last_step(config, take_away=False))


def _last_step(config: OptimConfig, *, take_away: bool) -> torch.Tensor:
    torch.manual_seed(0)
    draws = generator("state anew")
    weight = nn.Parameter(torch.randn(7, 5, generator=draws))
    optimizer = build_optimizer(for_trial(config), nn.ParameterList([weight]), config.lr_batch_size or 1)
    for number in range(_BEFORE + _AFTER):
        if number == _BEFORE:
            with torch.no_grad():
                weight.copy_(torch.randn(7, 5, generator=draws))
            states = parameter_state(optimizer)
            for value in states.pop(weight, {}).values() if take_away else states.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    value.zero_()
        weight.grad = torch.randn(7, 5, generator=draws)
        optimizer.step()
    return weight.detach()
