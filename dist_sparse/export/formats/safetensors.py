"""``safetensors``: all weights, zeros too, with the description as metadata. ``dist_sparse.load`` and timm read it."""

from pathlib import Path

from dist_sparse.export.source import Source
from dist_sparse.export.tensor_file import Layout, write_tensors


def write(source: Source, file: Path) -> list[str]:
    """Write the file."""
    write_tensors(file, source.model.state_dict(), source.about, Layout.DENSE)
    return []
