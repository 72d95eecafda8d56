"""Networks as graphs, for formats that hold operations beside weights; and whether what was written computes the same."""

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
_OPERATION = re.compile(r"aten[.:]+\w+(?:\.\w+)?|torch\.ops\.[\w.]+|call_function .*?(?=[\n(])|\b\w+\.item\(\)")
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
    """Within the block torch traces or translates in silence; whatever stops it is one line, with the operation."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # tracers raise errors of many kinds
        text = f"{source.about.model} cannot be followed by torch.export: {_reason(error)}"
        raise UserError(f"--format={name}: {text}; --format=timm, safetensors and sparse need no graph") from error
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
        found = (computed(images) - expected).abs().max().item()
        if not found <= TOLERANCE * max(1.0, expected.abs().max().item()):
            raise Incomplete(f"{what} differs from the network by {found:.2g} on a batch of {batch}; nothing is written")
        most = max(most, found)
    return f"{what} differs from the network by at most {most:.1e}"


def first_line(error: BaseException) -> str:
    """Of what an error says, no longer than a message can take."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_LONGEST]


def _reason(error: BaseException) -> str:
    """The operation, where an error or its causes name one, and the first words of the innermost one."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    operations = [found[0] for each in reversed(chain) if (found := _OPERATION.search(str(each)))]
    reason = first_line(chain[-1])
    return f"{operations[0]}: {reason}" if operations and operations[0] not in reason else reason
