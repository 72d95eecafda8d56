"""timm's learning rate schedules, counted in optimizer steps."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch.optim import Optimizer

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import SchedulerConfig
from dist_sparse.errors import UserError, is_unknown

_log = logging.getLogger(__name__)

_USES: dict[str, set[str]] = {
    "constant": set(),
    "cosine": {"min_lr"},
    "tanh": {"min_lr"},
    "poly": {"min_lr", "decay_rate"},
    "wsd": {"min_lr"},
    "rsqrt": {"min_lr"},
    "step": {"decay_every", "decay_rate"},
    "multistep": {"milestones", "decay_rate"},
}
_FIXED_TIMES = ("constant", "step", "multistep")  # their steps count from the start of the run, not from the end of the warm-up


def build_scheduler(config: SchedulerConfig, optimizer: Optimizer, *, steps_per_epoch: int, total_steps: int) -> Scheduler:
    """The schedule of an optimizer, set to the rate of step 0. Call ``step_update(n)`` before step n, counted from 0.

    The rate is a pure function of n: nothing has to be saved. The warm-up rises linearly from ``warmup_lr`` at step 0 to the
    full rate at step ``warmup``. Schedules with an end (cosine, tanh, poly, wsd, rsqrt) fill the rest of the run, and would
    arrive at ``min_lr`` at step ``total_steps``, one after the last. The milestones of `multistep` and the intervals of `step`
    count from the start of the run; a milestone of m steps means that step m is the first with the lower rate.
    As in timm, ``decay_rate`` is the power of `poly`; `wsd` and `rsqrt` decay in the last fifth.

    Raises:
        UserError: unknown schedule, or lengths that do not fit the run.
    """
    _check_name(config)

    def steps(length: Length) -> int:
        return length.steps(steps_per_epoch, total_steps)

    warmup = steps(config.warmup)
    if warmup >= total_steps:
        raise UserError(f"scheduler.warmup={config.warmup}: is {warmup} steps, the run has only {total_steps}")
    fixed = config.name in _FIXED_TIMES
    arguments = _decay_arguments(config, steps, total_steps)
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            num_epochs=total_steps if fixed else total_steps - warmup,
            warmup_epochs=warmup,
            warmup_lr=config.warmup_lr,
            warmup_prefix=not fixed,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,  # with one update to its "epoch", timm counts in updates
            **arguments,
        )
    except (ValueError, AssertionError) as error:
        raise UserError(f"scheduler.name={config.name}: {' '.join(str(error).split())}") from error
    if scheduler is None:
        raise UserError(f"scheduler.name={config.name}: the installed timm does not have it")
    scheduler.step_update(0)
    return scheduler


def _decay_arguments(config: SchedulerConfig, steps: Callable[[Length], int], total_steps: int) -> dict[str, Any]:
    if config.name == "constant":
        return {"sched": "step", "decay_epochs": total_steps, "decay_rate": 1.0}
    if config.name == "step":
        every = steps(config.decay_every) if config.decay_every is not None else 0
        if every < 1:
            raise UserError("scheduler.decay_every: `step` needs the length between two decays, such as '30 epochs'")
        return {"sched": "step", "decay_epochs": every, "decay_rate": config.decay_rate}
    if config.name == "multistep":
        if not config.milestones:
            raise UserError("scheduler.milestones: `multistep` needs at least one, such as ['50%', '75%']")
        milestones = sorted(steps(each) for each in config.milestones)
        if milestones[-1] >= total_steps:
            _log.warning("scheduler.milestones: step %d lies past the run's last step, %d", milestones[-1], total_steps - 1)
        # timm applies a milestone one step before its index.
        return {"sched": "multistep", "decay_milestones": [each + 1 for each in milestones], "decay_rate": config.decay_rate}
    if config.name == "poly":
        return {"sched": "poly", "decay_rate": config.decay_rate}
    return {"sched": config.name}


def _check_name(config: SchedulerConfig) -> None:
    if config.name == "plateau":
        raise UserError(
            "scheduler.name=plateau: depends on the validation metric; only schedules of the step alone are accepted"
        )
    if config.name not in _USES:
        raise UserError(f"scheduler.name={config.name!r} {is_unknown(config.name, _USES)}")


def idle_keys(config: SchedulerConfig) -> Iterator[tuple[str, str]]:
    """Keys of the section that do nothing as the others are, and why."""
    for key in sorted(set().union(*_USES.values()) - _USES.get(config.name, set())):
        yield key, f"schedule {config.name} does not read it"
    if not config.warmup.value:
        yield "warmup_lr", "there is no warm-up"
