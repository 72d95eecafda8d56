"""A network's tensors with their description in one file, in one of two layouts."""

import enum
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dist_sparse import bitmask, tensor_file
from dist_sparse.errors import UserError
from dist_sparse.export.description import Description

_LAYOUT = bitmask.LAYOUT_KEY


class Layout(enum.Enum):
    """How weights are held; the names are those of compressed-tensors."""

    DENSE = "dense"
    BITMASK = bitmask.LAYOUT


def write_tensors(file: Path, tensors: Mapping[str, Tensor], about: Description, layout: Layout) -> None:
    """Write a file that :func:`read_tensors` reads, as every reader of safetensors does.

    Raises:
        OSError: as the file system says.
    """
    tensor_file.write_tensors(file, tensors, {_LAYOUT: layout.value, **about.as_texts()})


def read_tensors(file: Path) -> tuple[dict[str, Tensor], Description, Layout]:
    """What :func:`write_tensors` was given.

    Raises:
        UserError: there is no such file, or it is not what was written.
    """
    tensors, texts = tensor_file.read_tensors(file)
    about = Description.from_texts(texts, file)
    if texts.get(_LAYOUT) not in [each.value for each in Layout]:
        known = ", ".join(each.value for each in Layout)
        raise UserError(f"{file}: layout {texts.get(_LAYOUT)!r} is unknown to this version, which reads {known}")
    return tensors, about, Layout(texts[_LAYOUT])
