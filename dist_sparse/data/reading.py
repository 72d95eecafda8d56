"""Reading what may be no file."""

import os
import stat
from pathlib import Path


def read_regular(path: Path) -> bytes:
    """The content of a file; OSError for a named pipe or a device, which could keep its reader waiting for ever."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("not a file, but a folder, a pipe or a device")
        return file.read()
