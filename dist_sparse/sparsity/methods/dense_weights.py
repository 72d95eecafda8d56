"""Dense weights that are kept beside the model while it runs with masked ones: those of AST, SR-STE and Top-KAST.

They are exchanged in place, so that the model keeps its modules and names and nothing that wraps it notices.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Decision, Method, Network
from dist_sparse.sparsity.methods.plan import Plan


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


class KeepsDenseWeights(Method):
    """Every forward has masked weights and every optimizer's step dense ones: what is inactive keeps its value.

    Put it before another base. A subclass's ``after_backward`` begins with :meth:`_restore_and_decay`.
    """

    dense_weights = "what its forward leaves out keeps its value, and a mask of averaged weights is not the averaged network's"

    def __init__(self, plan: Plan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._dense = DenseWeights(self.access)

    def before_forward(self, step: int) -> None:
        if not self._dense.applied:  # an earlier micro-batch of the step has applied them
            self._dense.apply(self.masks)

    def _restore_and_decay(self, factor: Callable[[str], Tensor], decay: float) -> None:
        """Give the model its dense weights back, and let each layer's shrink by ``decay`` times ``factor(name)``."""
        self._dense.restore()
        names = self.masks.names
        with self.access.gathered(weights=names, gradients=names):
            for name in names:
                self.access.grad(name).add_(self.access.weight(name) * factor(name), alpha=decay)

    def after_overflow(self, step: int) -> Decision:
        self._dense.restore()
        return super().after_overflow(step)

    def zero_inactive(self) -> None:
        """Inactive weights keep their values."""

    def networks(self) -> Sequence[Network]:
        return [Network(label="", masks=self.masks, applied=lambda: self._dense.masked(self.masks))]
