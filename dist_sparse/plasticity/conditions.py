"""What is asked of a checkpoint, and how a pruned network is trained on."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from dist_sparse.build import resolved
from dist_sparse.config import Config, with_values
from dist_sparse.config.schema import ForgettingConfig, SchedulerConfig, SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.plasticity import Probe

LEAST_SHARE = 0.01
"""Of the run's peak rate: the recovery's where the checkpoint's is lower. Schedules end near 0, where nothing recovers."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The probes of a call. ``learning_rate`` is the recovery's, None for the default."""

    checkpoint: Path
    probes: tuple[Probe, ...]
    rates: tuple[Fraction, ...]
    recovery_epochs: int
    gradient_batches: int
    learning_rate: float | None

    def check_batches(self, batches: int) -> None:
        """Refuse with a UserError to take gradients over more batches than an epoch has."""
        if self.gradient_batches > batches:
            raise UserError(f"--gradient-batches={self.gradient_batches}: an epoch has only {batches} batches")


def masks_of(state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The packed masks in the checkpoint at ``path``; a UserError if it holds several networks."""
    masks = state["method"]["masks"]
    if not isinstance(masks, dict):
        raise UserError(f"{path} holds sub-nets that share their weights; a probe prunes a single network")
    return masks


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
        "tracking.wandb": "disabled",
    }
    return resolved(
        dataclasses.replace(
            with_values(config, values),
            scheduler=SchedulerConfig(name="constant"),
            sparsity=SparsityConfig(method="static", density=1.0, distribution="uniform"),
            data=dataclasses.replace(config.data, forgetting=ForgettingConfig()),
        )
    )


def _learning_rate(config: Config, state: Mapping[str, Any]) -> float:
    """The rate that the checkpoint's next step would have had, but no less than a share of the peak."""
    optim, batch = config.optim, config.train.batch_size
    peak = optim.lr * batch / (optim.lr_batch_size or batch)
    return max(state["optimizer"]["param_groups"][0]["lr"], peak * LEAST_SHARE)
