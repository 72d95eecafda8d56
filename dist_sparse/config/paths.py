"""The type of keys that name a file or folder."""

from typing import Annotated

from pydantic import AfterValidator

from dist_sparse.inputs import expand


def _as_path(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ValueError("should be a path without control characters")
    return str(expand(text)) if text.startswith("~") else text


AnyPath = Annotated[str, AfterValidator(_as_path)]
"""`~` is the home folder."""
