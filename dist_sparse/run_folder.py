"""Where a run lives, and whether it begins, goes on, or is already over."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_sparse.config import Config
from dist_sparse.errors import UserError

FINISHED = "finished"
"""The exit reason in ``summary.json`` of a run that reached its last step."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run's folder: ``config.yaml``, ``metrics.csv``, ``summary.json``, ``checkpoints/`` and ``logs/``."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def used(self) -> bool:
        """A run has been started here."""
        return (self.path / "config.yaml").exists()

    def summary(self) -> dict[str, Any]:
        """What the last run here left at its end; empty if there is nothing."""
        try:
            return json.loads((self.path / "summary.json").read_text())
        except (OSError, json.JSONDecodeError):
            return {}

    @property
    def finished(self) -> bool:
        return self.summary().get("exit_reason") == FINISHED


def choose(config: Config) -> RunFolder:
    """The folder of ``output``, or a new one; with ``resume=auto`` and no output the newest unfinished run of this name.

    Raises:
        UserError: the folder holds a run that would be overwritten, or cannot be made.
    """
    folder = RunFolder(path=Path(config.output)) if config.output else _unfinished(config) or _new(config)
    if folder.used and config.resume == "never":
        raise UserError(f"output={folder.path} already holds a run: resume=auto goes on with it, another output keeps both")
    try:
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder.path} cannot be written: {error.strerror}") from error
    return folder


def _unfinished(config: Config) -> RunFolder | None:
    if config.resume != "auto":
        return None
    stamped = sorted(Path("runs").glob(f"{config.name}-[0-9]*"))
    folders = [RunFolder(path=path) for path in stamped]
    return next((folder for folder in reversed(folders) if folder.used and not folder.finished), None)


def _new(config: Config) -> RunFolder:
    return RunFolder(path=Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
