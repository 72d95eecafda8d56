"""A run at Weights & Biases that can neither stop training nor hold it up: whatever goes wrong there is one warning."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dist_sparse.config import Config, to_flat
from dist_sparse.config.schema import TrackingConfig
from dist_sparse.tracking.artifacts import log_artifacts

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

_MODES = {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}
_INIT_TIMEOUT, _FINISH_TIMEOUT, _UPLOAD_TIMEOUT = 10.0, 30.0, 600.0
"""Seconds to start, to end, and to end with artifacts; the user's environment (WANDB_INIT_TIMEOUT ...) may say otherwise."""


class WandbRun:
    """One W&B run in ``folder/wandb``, logged against ``step``; does nothing where W&B is disabled or has failed.

    Args:
        run_id: the run to go on with; None: a new one.
        patience: seconds that other ranks wait for this one, of which the end takes half at most; None: there are none.
    """

    def __init__(self, config: Config, folder: Path, run_id: str | None, *, patience: float | None = None) -> None:
        self.id = run_id
        self._run: wandb.Run | None = None
        self._warned = False
        self._artifacts_of = folder if config.tracking.artifacts else None
        mode = _mode(config.tracking.wandb)
        if mode != "disabled":
            try:
                self._run = _start(config, folder, run_id, mode, patience)
            except Exception as error:
                _warn("W&B is off", error)
        if self._run is not None:
            self.id = self._run.id
            self._folder = Path(self._run.dir).parent
            self._guard(_define_metrics)
            _listen(self._tell)

    def log(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """One row of the run's history."""
        self._guard(lambda run: run.log({"step": step, **values}))

    def finish(self, exit_code: int, summary: Mapping[str, float | int | str], *, preempted: bool = False) -> None:
        """Set the run's summary, upload artifacts of a run that ended well, and what is left, within a time limit.

        A ``preempted`` run, whose ``exit_code`` is not 0, is marked as one to go on with, so that a sweep gives it to another
        agent; but not if it was W&B that has stopped it.
        What is not uploaded stays in the folder for `wandb sync`.
        """
        self._guard(lambda run: run.summary.update(dict(summary)))
        if (folder := self._artifacts_of) is not None and exit_code == 0:
            self._guard(lambda run: log_artifacts(run, folder, summary))
        if preempted:
            self._guard(_mark_preempting)
        self._guard(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def _guard(self, call: Callable[["wandb.Run"], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._tell(f"off from here on: {_reason(error)}")
            self._run = None

    def _tell(self, trouble: str) -> None:
        """One warning, which says how to mend it; what comes after it is seldom news, and goes to the log file only."""
        level = logging.INFO if self._warned else logging.WARNING
        self._warned = True
        sync = f"`wandb sync --include-online {self._folder}` sends later what is missing"
        log.log(level, "W&B: %s; training goes on, and %s", trouble, sync)


def _mode(configured: str) -> str:
    """`auto` follows WANDB_MODE if that is set and is online otherwise; what the configuration names is taken at its word."""
    if configured != "auto":
        return configured
    return _MODES.get(os.environ.get("WANDB_MODE", "").lower(), "online")


def idle_keys(config: TrackingConfig) -> Iterator[tuple[str, str]]:
    """Keys of the section that do nothing as the others are, and why."""
    if _mode(config.wandb) == "disabled":
        for key in ("project", "entity", "group", "job_type", "tags", "artifacts"):
            yield key, "W&B is disabled"


def _start(config: Config, folder: Path, run_id: str | None, mode: str, patience: float | None) -> "wandb.Run":
    import wandb

    finish = _UPLOAD_TIMEOUT if config.tracking.artifacts else _FINISH_TIMEOUT
    limits = {
        "init_timeout": _INIT_TIMEOUT,
        "finish_timeout": finish if patience is None else min(finish, patience / 2),
    }
    timeouts: dict[str, Any] = {name: limit for name, limit in limits.items() if f"WANDB_{name.upper()}" not in os.environ}
    settings = wandb.Settings(silent=True, console="off", finish_timeout_raises=True, **timeouts)
    # Reports of its own errors, to a server that does not answer, would hold up the end of the run.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    wandb.setup(settings)
    if mode == "online" and not _has_key(warn=config.tracking.wandb == "online"):
        mode = "offline"
    arguments: dict[str, Any] = {
        **_labels(config),
        "config": to_flat(config),
        "dir": folder,
        "settings": settings,
        "reinit": "finish_previous",  # one that failed in this process must not take over this run's rows
        **_identity(config, run_id),
    }
    if mode == "online":
        try:
            return wandb.init(mode="online", **arguments)
        except Exception as error:
            _warn("W&B is offline", error)
    return wandb.init(mode="offline", **arguments)


def _identity(config: Config, run_id: str | None) -> dict[str, Any]:
    """Which W&B run it is. A sweep's agent has settled that (WANDB_RUN_ID ...), and W&B accepts nothing else under it."""
    if os.environ.get("WANDB_SWEEP_ID"):
        return {"resume": "allow"}
    place = {"project": config.tracking.project, "entity": config.tracking.entity, "name": config.name}
    return place if run_id is None else {**place, "id": run_id, "resume": "allow"}


def _labels(config: Config) -> dict[str, Any]:
    """What W&B's table of runs can be grouped and filtered by."""
    sparsity, tracking = config.sparsity, config.tracking
    density, array = "" if sparsity.density is None else f"{sparsity.density:g}", os.environ.get("SLURM_ARRAY_JOB_ID")
    tags = [sparsity.method, config.data.name, config.model.name]
    tags += [f"density={density}"] if density else []
    tags += [f"array={array}"] if array else []
    default = f"array-{array}" if array else f"{sparsity.method}-{config.model.name}-{config.data.name}"
    return {
        "group": tracking.group or default,
        "job_type": tracking.job_type or f"{sparsity.method}-{density}".rstrip("-"),
        "tags": [*tags, *tracking.tags],
    }


def _listen(tell: Callable[[str], None]) -> None:
    """Have the client's warnings told, such as that the server refuses data; a silent client keeps them to itself."""
    import wandb

    class Listener:
        def info(self, msg: str) -> None:
            """Not of interest."""

        def warning(self, msg: str) -> None:
            tell(re.sub("^wandb: (WARNING |ERROR )?", "", msg).partition(". ")[0])

        error = warning

    wandb.termsetup(wandb.setup().settings, Listener())


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


def _mark_preempting(run: "wandb.Run") -> None:
    if not _stopped_there(run):
        run.mark_preempting()


def _stopped_there(run: "wandb.Run") -> bool:
    """Whether the server wants the run to end, for a sweep's early stopping: its agent, too, says so by SIGTERM.

    The client (0.31) knows, but has no public way to ask it.
    """
    try:
        from wandb.proto import wandb_internal_pb2

        messages: Any = wandb_internal_pb2
        question = messages.Record(request=messages.Request(stop_status=messages.StopStatusRequest()))
        answer = run._interface._deliver(question).wait_or(timeout=5)  # pyright: ignore
        return answer.response.stop_status_response.run_should_stop
    except Exception as error:
        log.info("W&B: not known whether it has stopped the run: %s", _reason(error))
        return False


def _warn(what: str, error: Exception) -> None:
    log.warning("%s: %s; training goes on", what, _reason(error))


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
