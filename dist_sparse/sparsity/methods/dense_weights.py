"""The dense weights of AST and SR-STE, kept beside the model while it runs with masked ones.

They are exchanged in place, so that the model keeps its modules and names and nothing that wraps it notices.
"""

import contextlib
from collections.abc import Callable, Iterator

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.masks import Masks


class DenseWeights:
    """Keeps the dense weights while the model runs with masked ones. The gradient of these is that of every weight."""

    def __init__(self, access: WeightAccess) -> None:
        self._access = access
        self._bring_back: Callable[[], object] | None = None

    @property
    def applied(self) -> bool:
        """The model has masked weights."""
        return self._bring_back is not None

    def apply(self, masks: Masks) -> None:
        """Give the model masked weights."""
        assert not self.applied
        self._bring_back = self._access.mask_model(masks)

    def restore(self) -> None:
        """Give the model its dense weights back, bit for bit."""
        if self._bring_back is not None:
            self._bring_back()
        self._bring_back = None

    @contextlib.contextmanager
    def masked(self, masks: Masks) -> Iterator[None]:
        """The model has masked weights within the context."""
        self.apply(masks)
        try:
            yield
        finally:
            self.restore()
