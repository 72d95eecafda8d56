"""``timm``: a plain state dict as ``timm.create_model(..., checkpoint_path=)`` reads it, and a description beside it."""

from pathlib import Path

from dist_sparse.export.source import Source
from dist_sparse.files import atomic_write, dump


def write(source: Source, file: Path) -> list[str]:
    """Write the weights, and ``.json`` beside them."""
    weights = {name: tensor.detach() for name, tensor in source.model.state_dict().items()}
    atomic_write(file, lambda stream: dump(weights, stream))
    atomic_write(file.with_suffix(".json"), lambda stream: stream.write(source.about.as_json().encode()))
    return []
