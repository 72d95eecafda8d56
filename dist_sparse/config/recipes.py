"""The recipes that come with the package: found by the names that they have in a clone, from any folder."""

import difflib
import os
from pathlib import Path

from dist_sparse.errors import UserError, did_you_mean, shown
from dist_sparse.inputs import expand, is_there

FOLDER = Path(__file__).parents[1] / "configs"
"""In a clone a link to the folder at its root."""


def find(path: str) -> str:
    """A path as it is, if something lies there, or that of the shipped file which a clone has there.

    Raises:
        UserError: neither; with the names most like it.
    """
    place = expand(path)
    if place.is_absolute() or is_there(place):
        return str(place)
    if (file := shipped(path)) is not None:
        return file
    by_short = {_short(name): name for name in _names()}
    near = [by_short[each] for each in difflib.get_close_matches(_short(shown(path)), by_short, cutoff=0.7)]
    raise UserError(f"{shown(path, 300)}: no such file; {did_you_mean(near, f'recipes are in {FOLDER}')}")


def shipped(path: str) -> str | None:
    """The shipped file of a name such as ``configs/digits/rigl.yaml``, or ``digits/rigl`` for short; None if there is none."""
    name = os.path.normpath(path.removeprefix("./").removeprefix("configs/"))
    files = (FOLDER / each for each in (name, f"{name}.yaml"))
    return next((str(file) for file in files if is_there(file) and FOLDER in file.parents), None)


def _short(path: str) -> str:
    """What tells a recipe from others, as both ``configs/digits/rigl.yaml`` and ``digits/rigl`` name it."""
    return path.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")


def _names() -> list[str]:
    return sorted(f"configs/{file.relative_to(FOLDER)}" for file in FOLDER.glob("**/*.*") if file.suffix != ".md")
