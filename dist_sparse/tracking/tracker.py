"""One place to log to: the run's CSV files, W&B, TensorBoard and the screen, from the first rank only."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dist_sparse.config import Config
from dist_sparse.tracking.console import Console
from dist_sparse.tracking.table import Table, Value
from dist_sparse.tracking.tensorboard import TensorBoardLog
from dist_sparse.tracking.time_left import TimeLeft
from dist_sparse.tracking.wandb_run import WandbRun


class Tracker:
    """What is logged goes nowhere: the tracker of every rank but the first."""

    def __init__(self, wandb_id: str | None = None) -> None:
        self._wandb_id = wandb_id

    @property
    def wandb_id(self) -> str | None:
        """The W&B run's id, for the checkpoint."""
        return self._wandb_id

    def advance(self, step: int) -> None:
        """So many steps are done; to be called once a step, after what is logged of it."""

    def end_epoch(self, step: int, loss: float) -> None:
        """An epoch ends at this step, after :meth:`advance`; ``loss`` is its mean."""

    def pausing(self, *, validates: bool) -> AbstractContextManager[object]:
        """A context in which the run does not train, but validates, or perhaps saves."""
        return nullcontext()

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Add metrics of a step. All that is logged at one step makes one row, and is in the file when this returns.

        Fractions are 0-1. A name that is not among the columns is an error.
        """

    def tables(self) -> dict[str, Any]:
        """What a checkpoint keeps of the CSV files, by their names."""
        return {}

    def log_layers(self, step: int, *, densities: Mapping[str, float], changed: Mapping[str, float]) -> None:
        """Set each layer's density after a mask update, and the fraction of its weights that the update turned on or off."""

    def close(
        self, exit_code: int = 0, summary: Mapping[str, Value] = MappingProxyType({}), *, preempted: bool = False
    ) -> None:
        """End the run's tracking; ``exit_code`` and ``summary`` are what W&B shows of the run's end; one that was
        ``preempted`` is to go on there."""


class FirstRankTracker(Tracker):
    """Writes ``metrics.csv`` and ``layers.csv`` in the run's folder, to W&B, the screen and, if asked, TensorBoard."""

    def __init__(
        self,
        *,
        metrics: Table,
        layers: Table,
        wandb_run: WandbRun,
        console: Console,
        time_left: TimeLeft,
        steps_per_epoch: int,
        tensorboard: TensorBoardLog | None = None,
    ) -> None:
        super().__init__()
        self._metrics, self._layers, self._wandb, self._console = metrics, layers, wandb_run, console
        self._steps_per_epoch, self._time_left, self._tensorboard = steps_per_epoch, time_left, tensorboard
        self._step, self._new, self._new_layers = -1, {}, {}

    _new: dict[str, Value]
    _new_layers: dict[str, Value]

    @property
    def wandb_id(self) -> str | None:
        return self._wandb.id

    def tables(self) -> dict[str, Any]:
        return {"metrics.csv": self._metrics.state_dict(), "layers.csv": self._layers.state_dict()}

    def advance(self, step: int) -> None:
        self._console.expect(self._time_left.seconds(step))
        self._show_row()
        self._console.advance(step)
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def end_epoch(self, step: int, loss: float) -> None:
        self._console.end_epoch(step, loss)

    def pausing(self, *, validates: bool) -> AbstractContextManager[object]:
        return self._time_left.validating() if validates else nullcontext()

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        self._move_to(step)
        if "train/loss" in values:
            self._time_left.read(step)
        self._new |= values
        row = {"epoch": step / self._steps_per_epoch, **values}
        self._metrics.merge(step, row)
        if self._tensorboard is not None:
            self._tensorboard.log(step, row)

    def log_layers(self, step: int, *, densities: Mapping[str, float], changed: Mapping[str, float]) -> None:
        self._move_to(step)
        self._new_layers = {f"layers/{name}/density": density for name, density in densities.items()}
        rows = [{"layer": name, "density": density, "changed": changed[name]} for name, density in densities.items()]
        self._layers.write(step, rows)

    def close(
        self, exit_code: int = 0, summary: Mapping[str, Value] = MappingProxyType({}), *, preempted: bool = False
    ) -> None:
        self._show_row()
        self._console.close()
        self._wandb.finish(exit_code, summary, preempted=preempted)
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._metrics.close()
        self._layers.close()

    def _move_to(self, step: int) -> None:
        if step != self._step:
            self._show_row()
            self._step = step

    def _show_row(self) -> None:
        """Hand on what was logged at one step, now that it is complete."""
        if self._new or self._new_layers:
            self._wandb.log(self._step, self._new | self._new_layers)
            self._console.row(self._step, self._new)
            self._new, self._new_layers = {}, {}


def build_tracker(
    config: Config,
    folder: Path,
    rank: int,
    *,
    columns: Sequence[str],
    total_steps: int,
    steps_per_epoch: int,
    resume_step: int | None = None,
    wandb_id: str | None = None,
    tables: Mapping[str, Any] = MappingProxyType({}),
    validation_images: int = 0,
    patience: float | None = None,
) -> Tracker:
    """The tracker of a rank.

    Args:
        columns: names that will be logged, in the order of ``metrics.csv`` (after ``step`` and ``epoch``).
        resume_step: the step of the checkpoint that the run goes on from; rows after it are cut off. None: a new run.
        wandb_id: the W&B run in that checkpoint.
        tables: what :meth:`Tracker.tables` gave for that checkpoint, if it is this folder's.
        validation_images: those that a validation looks at, once for each network that it scores.
        patience: seconds that the other ranks wait for the first one; None if there are none.
    """
    if rank != 0:
        return Tracker(wandb_id)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = Table(folder / "metrics.csv", ("step", "epoch", *columns), resume_step, tables.get("metrics.csv"))
    tensorboard = TensorBoardLog(folder, resume_step, metrics.row(resume_step)) if config.tracking.tensorboard else None
    return FirstRankTracker(
        metrics=metrics,
        layers=Table(folder / "layers.csv", ("step", "layer", "density", "changed"), resume_step, tables.get("layers.csv")),
        wandb_run=WandbRun(config, folder, wandb_id, patience=patience),
        console=Console(total_steps=total_steps, steps_per_epoch=steps_per_epoch, start_step=resume_step or 0),
        time_left=TimeLeft(
            total_steps=total_steps,
            start_step=resume_step or 0,
            validate_every=config.train.validate_every * steps_per_epoch,
            steps_like_validation=validation_images / config.train.batch_size,
        ),
        steps_per_epoch=steps_per_epoch,
        tensorboard=tensorboard,
    )
