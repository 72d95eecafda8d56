"""Permission to read and write files as any user has it, in a process of root as well."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 0x20080522
OVERRIDES = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root passes over a file's permissions."""


@contextmanager
def unprivileged(*locked: Path, mode: int = 0) -> Iterator[None]:
    """Within it the paths have this mode, and this thread must heed the mode of every file. The user stays the same:
    another one could not import what lies in root's home, such as the interpreter's own library."""
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    before = (ctypes.c_uint32 * 6)()
    assert library.capget(header, before) == 0, ctypes.get_errno()
    without = (ctypes.c_uint32 * 6)(*before)
    without[0] &= ~OVERRIDES  # the effective ones; the permitted ones stay, so that they can be had again
    modes = {path: path.stat().st_mode for path in locked}
    for path in locked:
        path.chmod(mode)
    assert library.capset(header, without) == 0, ctypes.get_errno()
    try:
        yield
    finally:
        assert library.capset(header, before) == 0, ctypes.get_errno()
        for path, old in modes.items():
            path.chmod(old)
