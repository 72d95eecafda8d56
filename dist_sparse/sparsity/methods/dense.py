"""Dense training: no layer has a mask. The end of the scale that every sparse method is compared with."""

from typing import ClassVar

from dist_sparse.sparsity.method import Method


class Dense(Method):
    """No masks."""

    name = "dense"
    uses: ClassVar[frozenset[str]] = frozenset()
