"""Files that a user names: `~` is expanded here and nowhere else, and reading ends in text or one line, whatever lies there."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dist_sparse.errors import UserError, shown

MOST_BYTES = 1 << 20
"""The size of a configuration file. The longest recipe has 4 KB."""
MOST_LEVELS = 50
"""The depth of lists and mappings within one another."""
_LONGEST = 300
"""Characters of a path in a message."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def expand(path: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~user` expanded."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib raises where there is no such user)


def is_there(path: Path) -> bool:
    """Something lies at a path, whatever it is; a path that no file can have, or that may not be looked at, counts as empty."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """A folder lies at a path, as far as one may look."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def kind_of(path: Path) -> str | None:
    """What lies at a path where that is no plain file, such as ``a folder``; None for a file.

    Raises:
        OSError: nothing does, or it may not be looked at.
        ValueError: no path has such characters.
    """
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else next((kind for is_kind, kind in _KINDS if is_kind(mode)), "something else")


def check_file(path: Path, label: object = None, note: str = "", *, kind: str = "file") -> None:
    """Refuse whatever is not a plain file: to open a pipe would wait for its other end.

    Args:
        label: how messages call it, instead of by its path.
        note: what they say after that.
        kind: of file, which they say that there is none of.

    Raises:
        UserError: no such file, or not one.
    """
    label = shown(str(path if label is None else label), _LONGEST)
    try:
        other = kind_of(path)
    except (OSError, ValueError) as error:
        raise UserError(_why(error, label, note, kind)) from None
    if other is not None:
        raise UserError(f"{label}: cannot be read{note}: is {other}, not a file")


def read_text(path: Path, label: object = None, note: str = "", *, kind: str = "file", most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, of at most so many bytes.

    Raises:
        UserError: one line; with the number of the line where it is the content.
    """
    check_file(path, label, note, kind=kind)
    label = shown(str(path if label is None else label), _LONGEST)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise UserError(_why(error, label, note, kind)) from None
    if len(content) > most:
        raise UserError(f"{label}: cannot be read{note}: is longer than {most >> 20} MiB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{label}:1: cannot be read{note}: is UTF-16, should be UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{label}:{line}: cannot be read{note}: not UTF-8 text") from None


def read_json(path: Path, label: object = None) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: as :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, label), path if label is None else label, is_file=True)


def parse_json(text: str, source: object, *, is_file: bool = False) -> Any:
    """What JSON text from a ``source`` means, which messages name, and the line if it ``is_file``.

    Raises:
        UserError: not JSON, a key that stands twice in an object, or more than ``MOST_LEVELS`` within one another.
    """
    try:
        tree = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line = f":{error.lineno}" if is_file else ""
        raise UserError(f"{source}{line}: not readable as JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise UserError(f"{source}: not readable as JSON: {too_deep()}") from None
    except ValueError as error:  # a key twice, or a number of thousands of digits
        raise UserError(f"{source}: not readable as JSON: {' '.join(str(error).partition(';')[0].split())}") from None
    if any(level > MOST_LEVELS for level in _levels(tree)):
        raise UserError(f"{source}: not readable as JSON: {too_deep()}")
    return tree


def too_deep() -> str:
    """What is wrong with more levels than :data:`MOST_LEVELS`."""
    return f"more than {MOST_LEVELS} lists and mappings within one another"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _levels(tree: Any) -> Iterator[int]:
    """The level of every list and mapping, the outermost first."""
    waiting = [(tree, 1)]
    while waiting:
        value, level = waiting.pop()
        if isinstance(value, (dict, list)):
            yield level
            waiting += [(each, level + 1) for each in (value.values() if isinstance(value, dict) else value)]


def _why(error: OSError | ValueError, label: object, note: str, kind: str) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{label}: no such {kind}{note}"
    reason = error.strerror if isinstance(error, OSError) else "no path has such a character"
    return f"{label}: cannot be read{note}: {reason}"
