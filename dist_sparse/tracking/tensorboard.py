"""The numbers of metrics.csv once more for TensorBoard, as event files in the run's folder ``tensorboard``.

torch's ``SummaryWriter`` would write them from a thread of its own, where a full disk ends in a traceback, and names files so
that two of one second can be read in the wrong order. So its parts are used here, and files are numbered by starts of the run.
"""

import importlib.util
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dist_sparse.config.schema import TrackingConfig
from dist_sparse.errors import UserError
from dist_sparse.tracking.table import Value

if TYPE_CHECKING:
    from torch.utils.tensorboard import RecordWriter

log = logging.getLogger(__name__)

_VERSION = "brain.Event:2"
"""The version of the format in which the beginning of a file can say from which step on earlier files do not count."""
_TEXT = ("sparsity/mask_digest",)
"""Columns of metrics.csv that hold no numbers, though a digest can look like one: TensorBoard has no place for them."""


def check_tensorboard(config: TrackingConfig) -> None:
    """Refuse with a UserError to write for TensorBoard where the extra is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard=true needs TensorBoard, which is not installed here: pip install 'dist_sparse[tensorboard]'"
        )


class TensorBoardLog:
    """Writes each step once, when it is complete. What goes wrong here is one warning, and training goes on.

    Args:
        resume_step: the step that the run goes on from: TensorBoard forgets what an earlier start has logged from there on.
        row: what metrics.csv holds of that very step, which the earlier start may not have come to write here.
    """

    def __init__(self, folder: Path, resume_step: int | None = None, row: Mapping[str, Value] | None = None) -> None:
        self._folder = folder / "tensorboard"
        self._step, self._row = resume_step or 0, dict(row or {})
        self._file: BinaryIO | None = None
        try:
            from tensorboard.compat.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]
            from torch.utils.tensorboard import RecordWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            number = len(list(self._folder.glob("events.out.tfevents.*"))) + 1
            self._file = (self._folder / f"events.out.tfevents.{number:04d}").open("xb", buffering=0)
            self._records = RecordWriter(self._file)
            self._write(file_version=_VERSION)
            # Also where a run begins anew: an earlier one may have come to its end in this folder without a checkpoint.
            self._write(step=self._step, session_log=SessionLog(status=SessionLog.START))
        except (OSError, ImportError) as error:
            self._give_up(error)

    _records: "RecordWriter"

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Add values to the step's."""
        if step != self._step:
            self.flush()
            self._step = step
        self._row |= values

    def flush(self) -> None:
        """The step is complete: write its numbers. One that was read back from metrics.csv is text."""
        row, self._row = self._row, {}
        if self._file is None or not row:
            return
        try:
            from torch.utils.tensorboard.summary import scalar

            for name, value in row.items():
                if name not in _TEXT:
                    self._write(step=self._step, summary=scalar(name, float(value)))
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def _give_up(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        log.warning("%s: %s; training goes on, and metrics.csv holds the same figures", self._folder, reason)
        if self._file is not None:
            self._file.close()
            self._file = None
