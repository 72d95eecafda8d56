"""What is asked of a checkpoint, and how a pruned network is trained on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from dist_sparse.build import resolved
from dist_sparse.config import Config, with_values
from dist_sparse.config.data import ForgettingConfig, ProgressiveConfig
from dist_sparse.config.engine import EngineConfig
from dist_sparse.config.schema import SchedulerConfig
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.networks import StoredNetwork, networks_of
from dist_sparse.sparsity.plasticity import Probe

LEAST_SHARE = 0.01
"""Share of the run's peak rate that the recovery has at least: schedules end near 0, where nothing recovers."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The probes of a call. ``learning_rate`` is the recovery's, None for the default."""

    checkpoint: Path
    subnet: int | None
    """1 is the first; None for the last, the sparsest."""
    probes: tuple[Probe, ...]
    rates: tuple[Fraction, ...]
    recovery_epochs: int
    gradient_batches: int
    learning_rate: float | None

    def check_batches(self, batches: int) -> None:
        """Refuse with a UserError to take gradients over more batches than an epoch has."""
        if self.gradient_batches > batches:
            raise UserError(f"--gradient-batches={self.gradient_batches}: an epoch has only {batches} batches")


def network_of(state: Mapping[str, Any], request: Request) -> StoredNetwork:
    """The network to probe; a UserError if the checkpoint has none of that number."""
    networks = networks_of(state)
    number = len(networks) if request.subnet is None else request.subnet
    if number > len(networks):
        raise UserError(
            f"--subnet={number}: {request.checkpoint} holds sub-nets 1 to {len(networks)}; give one of their numbers"
        )
    return networks[number - 1]


def recovery_config(config: Config, request: Request, state: Mapping[str, Any]) -> Config:
    """The run's configuration for training a checkpoint's ``state`` on: fixed masks on all layers, a constant rate."""
    epochs = max(request.recovery_epochs, 1)
    values = {
        "optim.lr": _learning_rate(config, state) if request.learning_rate is None else request.learning_rate,
        "optim.lr_batch_size": None,
        "train.epochs": epochs,
        "train.validate_every": epochs,
        "train.ema": None,
        "checkpoint.every": "100%",
        "checkpoint.keep": 1,
        "execution.compute": "dense",  # probes look at gradients of inactive weights, too
        "execution.storage": "masked",  # and at whole weights
        "execution.shrink": False,
        "tracking.wandb": "disabled",
    }
    return resolved(
        dataclasses.replace(
            with_values(config, values),
            scheduler=SchedulerConfig(name="constant"),
            sparsity=SparsityConfig(method="static", density=1.0, distribution="uniform"),
            data=dataclasses.replace(config.data, forgetting=ForgettingConfig(), progressive=ProgressiveConfig()),
            engine=EngineConfig(device=config.engine.device, timeout=config.engine.timeout),  # whichever has written it
        )
    )


def _learning_rate(config: Config, state: Mapping[str, Any]) -> float:
    """The rate that the checkpoint's next step would have had, but no less than a share of the peak."""
    optim, batch = config.optim, config.train.batch_size
    peak = optim.lr * batch / (optim.lr_batch_size or batch)
    try:
        groups = state["optimizer"]["param_groups"]
        rate = max(float(group["lr"]) / group.get("lr_scale", 1.0) for group in groups)  # DeepSpeed's groups tell no scale
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise UserError("the checkpoint's entry 'optimizer.param_groups' has no learning rate; --lr gives one") from None
    return max(rate, peak * LEAST_SHARE)
