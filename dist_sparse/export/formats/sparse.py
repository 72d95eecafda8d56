"""``sparse``: safetensors with bits and values of the masked layers, for ``dist_sparse.load``."""

from pathlib import Path

from dist_sparse import bitmask
from dist_sparse.export.layout import Layout, write_tensors
from dist_sparse.export.source import Source


def write(source: Source, file: Path) -> list[str]:
    """Write the file; the line compares its size with that of all weights."""
    weights = source.model.state_dict()
    tensors = {}
    for name, weight in weights.items():
        tensors |= bitmask.compress(name, weight, source.masks[name]) if name in source.masks else {name: weight}
    write_tensors(file, tensors, source.about, Layout.BITMASK)
    dense = sum(weight.numel() * weight.element_size() for weight in weights.values())
    return [f"{file.stat().st_size / dense:.2f} of the {dense / 1e6:,.2f} MB that all weights take"]
