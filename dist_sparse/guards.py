"""Runs that would train nothing, or else than they say: refused, or told of, before the first step and in ``--plan``."""

import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn

from dist_sparse.config import Config
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.clock import Clock
from dist_sparse.errors import UserError
from dist_sparse.models.training import batch_statistics
from dist_sparse.optim import effective_lr
from dist_sparse.sparsity.methods.plan import Plan

_log = logging.getLogger(__name__)

MANY = 0.3
"""Share of a run's steps in which updates replace the optimizer's, from which on it is told."""

FEW = 1e-6
"""A smaller share of the peak learning rate is no training to speak of."""

_SAMPLES = 1000
"""Steps at which the learning rate is looked at."""


def steps_made(clock: Clock) -> Sequence[int]:
    """The numbers of the steps that a run makes."""
    if clock.short is None:
        return range(1, clock.total + 1)
    made = [clock.after(0)]
    while made[-1] < clock.total:
        made.append(clock.after(made[-1]))
    return made


def check_steps_of_run(config: Config, plan: Plan, scheduler: Scheduler, clock: Clock) -> Sequence[int]:
    """Check what a run does from step to step; returns the numbers of its steps.

    Raises:
        UserError: it would train nothing.
    """
    made = steps_made(clock)
    check_steps(config, plan, made)
    check_rates(config, scheduler, clock)
    check_average_length(config, clock)
    return made


def check_steps(config: Config, plan: Plan, made: Sequence[int]) -> None:
    """The optimizer must step between updates that take its place.

    Raises:
        UserError: it does not, or makes no step in the whole run.
    """
    replaced = plan.forecast(made).replaced_steps
    if not replaced:
        return
    if len(replaced) == len(made):
        raise UserError(
            f"sparsity.method={config.sparsity.method}: masks move in place of the optimizer's step in all {len(made)} steps "
            "of the run, so that no weight would be trained; a longer run (train.epochs) trains"
        )
    if sum(later == earlier + 1 for earlier, later in pairwise(replaced)) > len(replaced) // 2:
        raise UserError(
            f"sparsity.update.interval={config.sparsity.update.interval}: with sparsity.update.form=original an update "
            f"replaces the optimizer's step, and {len(replaced)} of the run's {len(made)} steps would train nothing; an "
            "interval of 3 steps or more (the method's default is 100), or form=itop, whose updates follow the step"
        )
    if len(replaced) >= MANY * len(made):
        _log.warning(
            "%d of the run's %d steps train nothing: with sparsity.update.form=original an update replaces the optimizer's "
            "step, and sparsity.update.interval is %s",
            len(replaced), len(made), config.sparsity.update.interval,
        )  # fmt: skip


def check_rates(config: Config, scheduler: Scheduler, clock: Clock) -> None:
    """Tell of a rate that is as good as 0 for most of the run, and of ends above its peak."""
    peak, schedule = effective_lr(config.optim, config.train.batch_size), config.scheduler
    steps = range(0, clock.total, -(-clock.total // _SAMPLES))
    low = [rate <= FEW * peak for rate in _rates(scheduler, steps)]
    if sum(low) > len(low) // 2:
        _log.warning(
            "scheduler.name=%s: in %d %% of the run's steps the learning rate is below a millionth of its peak, %g",
            schedule.name, round(100 * sum(low) / len(low)), peak,
        )  # fmt: skip
    for key, given in (("min_lr", schedule.min_lr), ("warmup_lr", schedule.warmup_lr if schedule.warmup.value else 0.0)):
        if given > peak:
            _log.warning("scheduler.%s=%g is above the peak learning rate, %g (optim.lr)", key, given, peak)


def _rates(scheduler: Scheduler, steps: Iterable[int]) -> list[float]:
    """The rates of steps counted from 0; the optimizer is then at that of step 0 again."""
    rates = []
    for step in steps:
        scheduler.step_update(step)
        rates.append(max(float(group["lr"]) for group in scheduler.optimizer.param_groups))
    scheduler.step_update(0)
    return rates


def check_average_length(config: Config, clock: Clock) -> None:
    """Tell of an average of weights that would remember the first step to the end, and choose the best checkpoint."""
    decay = config.train.ema
    if decay is not None and decay**clock.total > 1 / 2:
        _log.warning(
            "train.ema=%g averages over about %d steps, but the run has %d: the averaged weights stay near the initial ones",
            decay, round(1 / (1 - decay)), clock.total,
        )  # fmt: skip


def check_sync_batch_norm(config: Config, device: torch.device) -> None:
    """Refuse with a UserError batch norms over all ranks where torch has none, or whose units could not leave the network."""
    if not config.train.sync_batch_norm:
        return
    if device.type != "cuda":
        raise UserError(f"train.sync_batch_norm=true needs CUDA, for which alone torch has it; this run is on {device.type}")
    if config.execution.shrink:
        raise UserError("train.sync_batch_norm=true cannot go with execution.shrink=true, whose network is followed on the CPU")


def check_training_mode(config: Config, model: nn.Module, info: DataInfo, sizes: Collection[int], world_size: int) -> None:
    """The network must work in training, on images of these ``sizes`` (none: as in validation), and batch norm needs more than
    one value a channel.

    Raises:
        UserError: a batch norm would see one value of each channel, or the network's arguments do for evaluation only.
    """
    train, seen = config.train, {}
    for side in sorted(sizes or {info.image_size}, reverse=True):  # the smallest last
        seen |= batch_statistics(config.model, model, channels=info.channels, side=side)
    if train.batch_size > train.accumulation * world_size or not seen:
        return
    one = (
        f"train.batch_size={train.batch_size} is one image for each of {world_size} ranks x {train.accumulation} "
        "accumulation steps"
    )
    more = "give a larger train.batch_size, or fewer ranks or accumulation steps"
    if single := [name for name, values in seen.items() if values == 1]:
        raise UserError(f"{one}, of which batch norm {single[0]!r} sees one value a channel, and needs more: {more}")
    _log.warning("%s, from which batch norm takes its statistics: %s", one, more)
