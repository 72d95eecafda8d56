"""The one exception that is shown to the user as a single line, without a traceback."""

import sys
import time


class UserError(ValueError):
    """A mistake that the user can mend. The message names the key or file and says what would be accepted."""

    on_all_ranks = False
    """Every rank raises the same error, so that the first may speak for all."""


EXIT_USER_ERROR = 2
"""Exit code after a :class:`UserError`. A crash ends with Python's 1, an interrupt with 130."""

SECONDS_TO_SPEAK = 5


def refuse(error: UserError, *, aloud: bool = True) -> int:
    """Tell the user, a line for each mistake, on the rank that speaks ``aloud``; returns the exit code."""
    if aloud:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr, flush=True)
    else:
        # torchrun ends all processes as soon as one has failed: let the first rank speak first.
        time.sleep(SECONDS_TO_SPEAK)
    return EXIT_USER_ERROR
