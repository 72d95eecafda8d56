"""A run at Weights & Biases that can neither stop training nor hold it up: whatever goes wrong there is one warning."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_sparse.config import Config, to_flat

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_MODES = {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}
_TIMEOUTS = {"init_timeout": 10.0, "finish_timeout": 30.0}
"""Seconds, where the user's environment (WANDB_INIT_TIMEOUT ...) does not say otherwise."""


class WandbRun:
    """One W&B run in ``folder/wandb``, logged against ``step``; does nothing where W&B is disabled or has failed.

    Args:
        run_id: the run to go on with; None: a new one.
    """

    def __init__(self, config: Config, folder: Path, run_id: str | None) -> None:
        self.id = run_id
        self._run: wandb.Run | None = None
        mode = _mode(config.tracking.wandb)
        if mode != "disabled":
            try:
                self._run = _start(config, folder, run_id, mode)
            except Exception as error:
                _warn("W&B is off", error)
        if self._run is not None:
            self.id = self._run.id
            self._guard(_define_metrics)

    def log(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """One row of the run's history."""
        self._guard(lambda run: run.log({"step": step, **values}))

    def finish(self, exit_code: int, summary: Mapping[str, float | int | str], *, preempted: bool = False) -> None:
        """Set the run's summary and upload what is left, within a time limit.

        A ``preempted`` run, whose ``exit_code`` is not 0, is marked as one to go on with: a sweep gives it to another agent.
        What is not uploaded stays in the folder for `wandb sync`.
        """
        self._guard(lambda run: run.summary.update(dict(summary)))
        if preempted:
            self._guard(lambda run: run.mark_preempting())
        self._guard(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def _guard(self, call: Callable[["wandb.Run"], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            _warn("W&B is off from here on", error)
            self._run = None


def _mode(configured: str) -> str:
    """`auto` follows WANDB_MODE if that is set and is online otherwise; what the configuration names is taken at its word."""
    if configured != "auto":
        return configured
    return _MODES.get(os.environ.get("WANDB_MODE", "").lower(), "online")


def _start(config: Config, folder: Path, run_id: str | None, mode: str) -> "wandb.Run":
    import wandb

    timeouts: dict[str, Any] = {name: limit for name, limit in _TIMEOUTS.items() if f"WANDB_{name.upper()}" not in os.environ}
    settings = wandb.Settings(silent=True, console="off", **timeouts)
    wandb.setup(settings)
    if mode == "online" and not _has_key(warn=config.tracking.wandb == "online"):
        mode = "offline"
    sparsity = config.sparsity
    density = [] if sparsity.density is None else [f"density={sparsity.density:g}"]
    arguments: dict[str, Any] = {
        "project": config.tracking.project,
        "entity": config.tracking.entity,
        "group": config.tracking.group or f"{sparsity.method}-{config.model.name}-{config.data.name}",
        "tags": [sparsity.method, config.data.name, config.model.name, *density, *config.tracking.tags],
        "name": config.name,
        "config": to_flat(config),
        "dir": folder,
        "settings": settings,
        "reinit": "finish_previous",  # one that failed in this process must not take over this run's rows
        **({} if run_id is None else {"id": run_id, "resume": "allow"}),
    }
    if mode == "online":
        try:
            return wandb.init(mode="online", **arguments)
        except Exception as error:
            _warn("W&B is offline", error)
    return wandb.init(mode="offline", **arguments)


def _has_key(*, warn: bool) -> bool:
    """Whether there is a key, wherever W&B looks for one; never asks for it."""
    import wandb

    try:
        if wandb.login(prompt=False, verify=False):
            return True
        if warn:
            log.warning("W&B is offline: there is no key; `wandb login` stores one")
    except Exception as error:
        _warn("W&B is offline", error)
    return False


def _define_metrics(run: "wandb.Run") -> None:
    # W&B's own step cannot go back, as it must when a run is resumed from a checkpoint before its last row.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")


def _warn(what: str, error: Exception) -> None:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    log.warning("%s: %s; training goes on", what, reason)
