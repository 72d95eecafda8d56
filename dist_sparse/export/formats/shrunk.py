"""``shrunk``: a smaller dense network of equal outputs, without the units that are dead, for ``dist_sparse.load``."""

import dataclasses
from functools import partial
from pathlib import Path

from dist_sparse.errors import UserError
from dist_sparse.export.source import Source, arguments
from dist_sparse.export.timing import latencies
from dist_sparse.shrinking import Shrunk, save_shrunk, shrink

_BATCH, _ROUNDS = 2, 11


def write(source: Source, file: Path) -> list[str]:
    """Write the file; the lines are a table of what went and what stayed, and the latencies of both networks."""
    about = source.about
    try:
        small = shrunk(source)
    except UserError as error:
        raise UserError(f"--format=shrunk: {error}; --format=sparse makes the file smaller whatever the masks") from error
    save_shrunk(small, file, name=about.model, kwargs=arguments(about), about=dataclasses.asdict(about))
    image = source.images(1)
    ways = {"masked": partial(source.model, image), "shrunk": partial(small.model, image)}
    times = ", ".join(f"{name} {time}" for name, time in latencies(ways, _ROUNDS).items())
    return [*small.report.table().splitlines(), f"one image takes: {times}"]


def shrunk(source: Source) -> Shrunk:
    """The network without its dead units.

    Raises:
        UserError: there are none, or the network cannot be followed.
    """
    return shrink(source.model, source.masks, source.images(_BATCH))
