"""Masked networks without their dead units: smaller, dense, and with equal outputs."""

from dist_sparse.shrinking.shrink import Shrunk, shrink, to_original

__all__ = ["Shrunk", "shrink", "to_original"]
