"""``safetensors``: all weights, zeros too, with the description as metadata. ``dist_sparse.load`` and timm read it."""

from pathlib import Path

from dist_sparse.export.layout import Layout, write_tensors
from dist_sparse.export.source import Source


def write(source: Source, file: Path) -> list[str]:
    """Write the file."""
    write_tensors(file, source.model.state_dict(), source.about, Layout.DENSE)
    return []
