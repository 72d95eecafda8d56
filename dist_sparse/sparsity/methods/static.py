"""Static sparse training: random masks, drawn once and never moved.

The other end of the scale: what a dynamic method must beat.
"""

from dist_sparse.sparsity.method import Method


class Static(Method):
    """Fixed masks."""

    name = "static"
