"""Masked networks without their dead units: smaller, dense, and with equal outputs."""

from dist_sparse.shrinking.file import Loaded, is_shrunk, load_shrunk, read_shrunk, save_shrunk
from dist_sparse.shrinking.plan import OriginalUnits, Plan
from dist_sparse.shrinking.report import LayerChange, Report
from dist_sparse.shrinking.shrink import Shrunk, shrink, to_original

__all__ = [
    "LayerChange",
    "Loaded",
    "OriginalUnits",
    "Plan",
    "Report",
    "Shrunk",
    "is_shrunk",
    "load_shrunk",
    "read_shrunk",
    "save_shrunk",
    "shrink",
    "to_original",
]
