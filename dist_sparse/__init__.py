"""Distributed sparse training: train a sparse network on one process or on many, with one set of masks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_sparse.export.loading import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``load``, with what it needs (torch and timm), once it is asked for."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dist_sparse.export.loading import load

    return load
