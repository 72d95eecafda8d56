"""The one exception that is shown to the user as a single line, without a traceback, and the words of such lines."""

import contextlib
import difflib
import json
import sys
import time
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend. The message names the key or file and says what would be accepted."""

    exit_code = 2
    on_all_ranks = False
    """Every rank raises the same error, so that the first may speak for all."""


class ToldElsewhere(UserError):
    """Another rank has found the mistake while this one waited for it, and tells the user."""


class Incomplete(Exception):
    """The run could not be completed, by no mistake of the user's, and one line says why."""

    exit_code = 1
    reports = True
    """This rank is to tell it; another one does if not."""
    on_all_ranks = False
    """Every rank raises the same error, so that no other has to be told."""
    at_once = False
    """Nobody has to be left time to speak: the launcher ends all ranks already, and some wait for this one to close its
    connections."""


EXIT_INCOMPLETE = Incomplete.exit_code
EXIT_USER_ERROR = UserError.exit_code
"""Exit code after a :class:`UserError`. A crash ends with Python's 1, an interrupt with 130."""

SECONDS_TO_SPEAK = 3


def one_line(text: object) -> str:
    """A text that comes from elsewhere, such as the name of a file, as one line that every file and screen can take.

    Control characters and bytes that are not UTF-8 are shown as in ``caf\\xe9.JPEG``.
    """
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in str(text))


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # Python's stand-in for a byte
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def refuse(error: UserError | Incomplete, *, reports: bool = True) -> int:
    """Tell the user, a line for each mistake, if this is the rank that ``reports`` it; returns the exit code."""
    if reports:
        for line in str(error).splitlines():
            with contextlib.suppress(OSError):  # nobody reads it, or a full disk
                print(f"error: {line}", file=sys.stderr, flush=True)
    elif not getattr(error, "at_once", False):
        # torchrun ends all processes as soon as one has failed: let the first rank speak first.
        time.sleep(SECONDS_TO_SPEAK)
    return error.exit_code


def is_unknown(name: str, known: Iterable[str], listing: str | None = None) -> str:
    """The end of a message about a name that is none of ``known``: ``is unknown; did you mean rigl? known: dense, rigl, set``.

    Named are those most like it, and after them all, or what ``listing`` says of all.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names)
    return "is unknown; " + did_you_mean(near, listing or f"known: {', '.join(names)}")


def did_you_mean(near: Iterable[str], listing: str) -> str:
    """The names that may have been meant, if any, and ``listing``."""
    words = " or ".join(near)
    return f"did you mean {words}? {listing}" if words else listing


def shown(value: Any, limit: int = 60) -> str:
    """A value on one line of a message, text as it is, and no longer than ``limit`` characters."""
    try:
        text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists without an end
        text = f"a {type(value).__name__}"
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."
