"""Where a run lives, and whether it begins, goes on, or is already over."""

import contextlib
import itertools
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import SoftFileLease

from dist_sparse.config import Config, load_config, with_values
from dist_sparse.errors import UserError
from dist_sparse.inputs import expand, is_there, read_json
from dist_sparse.lease import take
from dist_sparse.tracking.provenance import begun_by_this_launcher, begun_by_this_process

FINISHED = "finished"
"""The exit reason in ``summary.json`` of a run that reached its last step."""

PREEMPTED = "preempted"
"""That of a run which a signal has stopped, and which wants to be started again."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run's folder: ``config.yaml``, ``metrics.csv``, ``summary.json``, ``checkpoints/`` and ``logs/``."""

    path: Path
    restarted: bool = False
    """The torchrun that began the run here has restarted its processes, after one of them had died."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def used(self) -> bool:
        """A run has been started here."""
        return is_there(self.path / "config.yaml")

    def summary(self) -> dict[str, Any]:
        """What the last run here left at its end; empty if there is nothing."""
        try:
            summary = read_json(self.path / "summary.json")
        except UserError:
            return {}
        return summary if isinstance(summary, dict) else {}

    @property
    def preempted(self) -> Path:
        """There while the run wants to be started again: a signal has stopped it, which the file names with the step."""
        return self.path / "preempted"

    @property
    def finished(self) -> bool:
        """The run came to its end, and its last checkpoint is there; whether it is sound is for others to find out."""
        last = self.last_checkpoint()
        return self.said_finished and last is not None and last.is_file()

    @property
    def said_finished(self) -> bool:
        """The summary says that the run came to its end."""
        return self.summary().get("exit_reason") == FINISHED

    def last_checkpoint(self) -> Path | None:
        """The last checkpoint that a finished run has written; where its summary does not name it, the last that is there."""
        from dist_sparse.checkpoint import CheckpointStore

        if isinstance(name := self.summary().get("last_checkpoint"), str):
            return self.checkpoints / name
        paths = CheckpointStore(self.checkpoints, keep=1).paths()
        return paths[-1] if paths else None

    def config(self, overrides: Sequence[str]) -> Config:
        """The run's configuration with command line words set anew, but no initial weights: a checkpoint holds all.

        Raises:
            UserError: this is not the folder of a run, or the words cannot be used.
        """
        path = self.path / "config.yaml"
        if not is_there(path):
            raise UserError(f"{self.path} is not the folder of a run: it has no config.yaml")
        return with_values(load_config(str(path), overrides), {"model.pretrained": False, "model.checkpoint": None})

    def checkpoint(self, which: str) -> Path:
        """The path of the checkpoint that ``best`` or ``last`` means here; anything else is the path of a file.

        Raises:
            UserError: the run has none.
        """
        if which not in ("best", "last"):
            return expand(which)
        from dist_sparse.checkpoint import CheckpointStore

        store = CheckpointStore(self.checkpoints, keep=1)
        paths = store.paths()
        if which == "best" and store.best_path.exists():
            return store.best_path
        if which == "best" and paths:
            reason = self.summary().get("no_best") or "only a network at its final density can be the best"
            raise UserError(f"{self.checkpoints} holds no best checkpoint: {reason}; --checkpoint=last takes {paths[-1].name}")
        if not paths:
            raise UserError(f"{self.checkpoints} holds no {which} checkpoint")
        return paths[-1]

    def forget_summary(self) -> None:
        """Remove the summary of an earlier start: the run is under way again."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def forget_preemption(self) -> None:
        """Remove the mark of an earlier start that was preempted: job scripts would take it for this one's.

        Raises:
            UserError: it cannot be removed.
        """
        try:
            self.preempted.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{self.preempted} cannot be removed: {error.strerror}") from error

    def discard_if_unused(self) -> None:
        """Remove what a run left that ended before it began, so that it can be started again in the same place.

        What cannot be removed stays: the reason why the run ended is more important.
        """
        if self.used:
            return
        for log in (self.path / "logs").glob("rank_*.log"):
            with contextlib.suppress(OSError):
                log.unlink()
        for folder in (self.path / "logs", self.checkpoints, self.path):
            with contextlib.suppress(OSError):  # not empty: something else lies here
                folder.rmdir()


def choose_and_lock(config: Config) -> tuple[RunFolder, SoftFileLease]:
    """The folder that :func:`choose` gives, and its lease, which keeps other processes from training there.

    Raises:
        UserError: as :func:`choose`; another process trains there.
    """
    folder = choose(config)
    try:
        lease = take(folder.path)
    except OSError as error:
        raise UserError(f"output={folder.path} cannot be written: {error.strerror}") from error
    try:
        _refuse_used(folder, config)  # by a run that has begun, and ended, since
    except UserError:
        lease.release()
        raise
    return folder, lease


def choose(config: Config) -> RunFolder:
    """The folder of ``output``, or that of an agent's W&B run, or a new one.

    With ``resume=auto`` and neither of the first two it is the newest unfinished run of this name.
    Processes that torchrun has restarted stay in the folder where they were.

    Raises:
        UserError: the folder holds a run that would be overwritten, or cannot be made.
    """
    try:
        named = _named(config)
        folder = _own(config, named)
        if folder is None:
            folder = RunFolder(path=named) if named else _unfinished(config) or _new(config)
        _refuse_used(folder, config)
        for place in (folder.checkpoints, folder.path / "logs"):
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()  # a folder that is there may still not be one to write to
    except OSError as error:
        raise UserError(f"output={config.output or 'runs'} cannot be written: {error.strerror}") from error
    return folder


def _refuse_used(folder: RunFolder, config: Config) -> None:
    if folder.used and config.resume == "never" and not folder.restarted:
        raise UserError(f"output={folder.path} already holds a run: resume=auto goes on with it, another output keeps both")


def _named(config: Config) -> Path | None:
    """``output``; or under a W&B agent the folder of its W&B run, which is no other's, and where it goes on if W&B asks."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if config.output:
        return expand(config.output)
    return Path("runs") / f"{config.name}-sweep-{run}" if sweep and run else None


def _own(config: Config, named: Path | None) -> RunFolder | None:
    """Where this process's torchrun had begun the run before it restarted its processes; another run of this one is none."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    paths = [named] if named else _stamped(config)
    folders = [RunFolder(path=path, restarted=True) for path in paths]
    return next((folder for folder in reversed(folders) if folder.used and _begun_before_restart(folder.path)), None)


def _begun_before_restart(path: Path) -> bool:
    return begun_by_this_launcher(path) and not begun_by_this_process(path)


def _unfinished(config: Config) -> RunFolder | None:
    if config.resume != "auto":
        return None
    folders = [RunFolder(path=path) for path in _stamped(config)]
    return next((folder for folder in reversed(folders) if folder.used and not folder.finished), None)


def _stamped(config: Config) -> list[Path]:
    """The folders that :func:`_new` has made for runs of this name."""
    ours = re.compile(rf"{re.escape(config.name)}-\d{{8}}-\d{{6}}(-\d+)?")
    return sorted(path for path in Path("runs").glob(f"{config.name}-*") if ours.fullmatch(path.name))


def _new(config: Config) -> RunFolder:
    """A folder that no other run of the same second has taken."""
    stem = f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        path = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return RunFolder(path=path)
    raise AssertionError("counting does not end")
