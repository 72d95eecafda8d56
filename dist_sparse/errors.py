"""The one exception that is shown to the user as a single line, without a traceback."""


class UserError(ValueError):
    """A mistake that the user can mend. The message names the key or file and says what would be accepted."""

    on_all_ranks = False
    """Every rank raises the same error, so that the first may speak for all."""


EXIT_USER_ERROR = 2
"""Exit code after a :class:`UserError`. A crash ends with Python's 1, an interrupt with 130."""
