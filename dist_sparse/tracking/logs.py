"""Logging of a run: everything into a file for each rank, warnings of the first rank to the user as well."""

import logging
import sys
import types
from pathlib import Path

from tqdm import tqdm

from dist_sparse.errors import UserError

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_HANDLERS = ("dist_sparse.file", "dist_sparse.screen")


def setup_logging(folder: Path, rank: int) -> None:
    """Append this process's log, its warnings and the traceback of its end to ``folder/logs/rank_<rank>.log``.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / "logs" / f"rank_{rank}.log"
    root = logging.getLogger()
    for handler in [each for each in root.handlers if each.get_name() in _HANDLERS]:
        root.removeHandler(handler)
        handler.close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        to_file = _File(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    to_file.set_name(_HANDLERS[0])
    to_file.setFormatter(logging.Formatter(_FORMAT))
    to_file.addFilter(_is_ours_or_a_warning)
    root.addHandler(to_file)
    if rank == 0:
        to_screen = _Screen(logging.WARNING)
        to_screen.set_name(_HANDLERS[1])
        to_screen.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        root.addHandler(to_screen)
    logging.getLogger("dist_sparse").setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _log_then_show


def _is_ours_or_a_warning(record: logging.LogRecord) -> bool:
    # W&B's loggers would hand on their smallest details, whatever the level of the root.
    return record.levelno >= logging.WARNING or record.name.startswith("dist_sparse")


class _File(logging.FileHandler):
    """What a full disk refuses is not in the file; a traceback for each such line would help nobody."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what is still held up
            pass


class _Screen(logging.Handler):
    """Standard error, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def _log_then_show(kind: type[BaseException], error: BaseException, traceback: types.TracebackType | None) -> None:
    for handler in logging.getLogger().handlers:
        if handler.get_name() == _HANDLERS[0]:
            record = logging.LogRecord(__name__, logging.CRITICAL, "", 0, "the run ends here", None, (kind, error, traceback))
            handler.handle(record)
    sys.__excepthook__(kind, error, traceback)
