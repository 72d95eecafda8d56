"""Networks as graphs, for formats that hold operations beside weights; and whether what was written computes the same."""

import io
import logging
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dist_sparse.errors import Incomplete, UserError
from dist_sparse.export.source import Source

TOLERANCE = 1e-4
"""The most by which outputs may differ, as a share of the largest one, or of 1 if that is less."""
_TRACED = 2
_COMPARED = (1, 3)
"""Batches, other ones than the traced, so that a batch that became a constant is found."""
_TORCH = Path(torch.__file__).parent
_LONGEST = 200


def trace(source: Source, name: str) -> ExportedProgram:
    """The network's graph, for batches of any size.

    Args:
        name: of the format, for messages.

    Raises:
        UserError: the network cannot be followed.
    """
    with following(source, name):
        shapes = ({0: torch.export.Dim("batch")},)
        return torch.export.export(source.model, (source.images(_TRACED),), dynamic_shapes=shapes)


@contextmanager
def following(source: Source, name: str) -> Iterator[None]:
    """Within the block torch traces or translates in silence; whatever stops it is one line, with the operation.

    Raises:
        UserError: something has.
    """
    try:
        with silence(), torch.no_grad():
            yield
    except Exception as error:  # tracers raise errors of many kinds
        text = f"{source.about.model} cannot be followed: {_reason(error)}"
        raise UserError(f"--format={name}: {text}; --format=timm, safetensors and sparse need no graph") from error


@contextmanager
def silence() -> Iterator[None]:
    """Within the block nothing is heard of what libraries print, log or warn of on the way."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def check_same(source: Source, computed: Callable[[Tensor], Tensor], what: str) -> str:
    """Compare ``computed`` with the network's own outputs on random images; a line about the largest difference.

    Raises:
        Incomplete: they differ by more than :data:`TOLERANCE`.
    """
    most = 0.0
    for batch in _COMPARED:
        images = source.images(batch)
        with torch.no_grad():
            expected = source.model(images)
        outputs = computed(images)
        found = (outputs - expected).abs().max().item() if outputs.shape == expected.shape else math.inf
        if not found <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise Incomplete(f"{what} differs from the network by {found:.2g} on a batch of {batch}; nothing is written")
        most = max(most, found)
    return f"{what} differs from the network by at most {most:.1e}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, no longer than a message can take."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_LONGEST]


def _reason(error: BaseException) -> str:
    """What the innermost error says, and the line of the network's own code where it was raised."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).suffix == ".py"]
    outside = [each for each in frames if not Path(each.filename).is_relative_to(_TORCH) and each.filename != __file__]
    place = f" at {Path(outside[-1].filename).name}:{outside[-1].lineno}, {outside[-1].line}" if outside else ""
    return f"{first_line(error).rstrip('.')}{place}"
