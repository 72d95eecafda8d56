"""Static sparse training: masks that are chosen once and never move.

The other end of the scale: what a dynamic method must beat. ``sparsity.init`` says how they are chosen: ``random``;
``magnitude``, the largest |w| that each layer begins with; ``checkpoint``, those of ``model.checkpoint``; or ``snip`` (see
:mod:`dist_sparse.sparsity.methods.snip`), for which the network is dense until the first gradient.
"""

from collections.abc import Mapping
from typing import Any

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.base import Decision, Method
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.plan import FixedMasks, Plan
from dist_sparse.sparsity.methods.snip import SnipPlan, chooses_over_all_layers


class Static(Method):
    """Fixed masks."""

    name = "static"
    uses = Method.uses | {"init"}
    inits = frozenset({"random", "magnitude", "snip", "checkpoint"})

    def __init__(self, plan: Plan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._snip = plan.snip if isinstance(plan, SnipPlan) else None
        self._chosen = self._snip is None

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        if chooses_over_all_layers(config) and config.distribution == "table":
            raise UserError("sparsity.distribution=table does not go with sparsity.init=snip, which chooses over all layers")
        return config

    @classmethod
    def plan(cls, context: Context) -> Plan:
        if context.config.init == "snip":
            return SnipPlan.of(cls, context)
        return FixedMasks.of(cls, context)

    def chooses(self, step: int) -> bool:
        return not self._chosen

    def after_backward(self, step: int) -> Decision:
        if self._chosen or self._snip is None:
            return super().after_backward(step)
        owned = self.agreement.owned()
        with self.access.gathered(weights=owned, gradients=owned):
            chosen = self._snip.choose(self.access, self.masks, self.agreement)
        self.replace_masks(chosen)
        self.masks.restart_exploration()  # no weight has been trained yet
        self._chosen = True
        self.access.mask_gradients(self.masks)
        return Decision(skip_optimizer=True, updates_masks=True)

    def at_final_density(self) -> bool:
        return self._chosen

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({"chosen": self._chosen} if self._snip else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._chosen = state["chosen"] if self._snip else True
