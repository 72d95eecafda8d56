"""Dense training: no layer has a mask. The end of the scale that every sparse method is compared with."""

from typing import ClassVar

from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.plan import FixedMasks, Plan


class Dense(Method):
    """No masks."""

    name = "dense"
    uses: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def plan(cls, context: Context) -> Plan:
        return FixedMasks.of(cls, context)  # of no layer
