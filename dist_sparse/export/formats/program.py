"""``program``: torch's exported program, for batches of any size; read back, and compared, before it is in its place."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dist_sparse.errors import UserError
from dist_sparse.export.description import Description
from dist_sparse.export.source import Source
from dist_sparse.export.tracing import check_same, first_line, following, silence, trace
from dist_sparse.files import atomic_write
from dist_sparse.inputs import check_file, parse_json

DESCRIPTION = "description.json"
"""The name of the file within the program that holds the description."""


def read(file: Path) -> tuple[Callable[[Tensor], Tensor], Description]:
    """The network of a file that :func:`write` has written. torch.export may run what a stranger has put into one.

    Raises:
        UserError: it is not such a file.
    """
    check_file(file)
    extra = {DESCRIPTION: ""}
    try:
        with silence():
            loaded = torch.export.load(file, extra_files=extra).module()
    except Exception as error:  # whatever broken bytes make it trip over
        raise UserError(f"{file}: not a sound exported program: {type(error).__name__} {first_line(error)}") from None
    return loaded, Description.from_values(parse_json(extra[DESCRIPTION] or "{}", file), file)


def write(source: Source, file: Path) -> list[str]:
    """Write the file, once torch has read it and computes what the network gives."""
    program, content = trace(source, "program"), io.BytesIO()
    with following(source, "program"):
        torch.export.save(program, content, extra_files={DESCRIPTION: source.about.as_json()})
        loaded = torch.export.load(io.BytesIO(content.getvalue())).module()
    line = check_same(source, loaded, "torch.export")
    atomic_write(file, lambda stream: stream.write(content.getvalue()))
    return [line]
