"""What a run is refused for before it is built: the same for the run and for ``--plan``."""

from collections.abc import Sequence

import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_sparse.config import Config
from dist_sparse.data.clock import Clock
from dist_sparse.engines.build import capabilities_of, check_engine
from dist_sparse.errors import UserError
from dist_sparse.executing import check_counts, check_settles, check_shrink, check_storage
from dist_sparse.guards import check_steps_of_run
from dist_sparse.optim import (
    ZeroPreservation,
    check_exchangeable,
    check_flattenable,
    check_untrained,
    check_zero_preservation,
)
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.plan import Plan


def check_average(config: Config) -> None:
    """Refuse an average of weights that the method keeps dense."""
    if config.train.ema is not None and (reason := METHODS[config.sparsity.method].dense_weights):
        raise UserError(f"train.ema cannot go with sparsity.method={config.sparsity.method}: {reason}")


def try_optimizer(config: Config, device: torch.device | str = "cpu") -> ZeroPreservation:
    """Take steps with the configured optimizer; what it does where a mask is.

    Raises:
        UserError: it cannot be used with its arguments, or with the method.
    """
    dtype = torch.float64 if config.train.precision == "fp64" else torch.float32
    found = check_zero_preservation(config.optim, device, batch_size=config.train.batch_size, dtype=dtype)
    if METHODS[config.sparsity.method].holds_untrained:
        check_untrained(config.optim, f"sparsity.method={config.sparsity.method}", device, dtype)
    return found


def check_pieces(config: Config) -> None:
    """Refuse with a UserError an optimizer that cannot step pieces of weights, if the engine gives it such."""
    engine = capabilities_of(config.engine)
    if engine.steps_pieces:
        check_flattenable(config.optim, engine)


def check_state_exchange(config: Config, model: nn.Module) -> None:
    """Refuse with a UserError an optimizer whose state of a parameter the engine cannot exchange, if the method does so."""
    engine, norms = capabilities_of(config.engine), any(isinstance(module, _BatchNorm) for module in model.modules())
    why = METHODS[config.sparsity.method].exchanges_state(config.sparsity, batch_norms=norms)
    if engine.counts_steps_once and why is not None:
        check_exchangeable(config.optim, engine, why)


def check_config(config: Config, world_size: int, device: torch.device | str = "cpu") -> ZeroPreservation:
    """Refuse with a UserError what cannot work whatever the data, the model and the machine are.

    Returns:
        What the optimizer does where a mask is.
    """
    check_average(config)
    check_engine(config, world_size)
    keeps = try_optimizer(config, device)
    check_pieces(config)
    check_storage(config)
    check_shrink(config)
    return keeps


def check_plan(config: Config, plan: Plan, scheduler: Scheduler, clock: Clock) -> Sequence[int]:
    """Refuse with a UserError what the method will do and the run cannot; returns the numbers of the run's steps."""
    check_settles(config, plan)
    check_counts(config, plan)
    return check_steps_of_run(config, plan, scheduler, clock)
