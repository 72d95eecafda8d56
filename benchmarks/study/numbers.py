"""What the numbers on these commands' lines may be; argparse tells the option and what would be accepted, in one line."""

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} should be a whole number of 1 or more")
    return int(text)


def density(text: str) -> float:
    """A fraction above 0, of 1 at the most."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ArgumentTypeError(f"{text!r} should be above 0, and 1 at the most")
    return value
