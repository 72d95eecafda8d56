"""Static sparse training: masks that are chosen once and never move.

The other end of the scale: what a dynamic method must beat. ``sparsity.init`` says how they are chosen: ``random``;
``magnitude``, the largest |w| of each layer's initialisation; or ``snip`` (see :mod:`dist_sparse.sparsity.methods.snip`), for
which the network is dense until the first gradient.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.method import Decision, Method
from dist_sparse.sparsity.methods.course import LIKE_ERK, Course, Line, Move, initial_densities, resting
from dist_sparse.sparsity.methods.initial import largest_masks
from dist_sparse.sparsity.methods.setting import Plan, Setting
from dist_sparse.sparsity.methods.snip import Snip, plan_snip, shares_out_nothing


class Static(Method):
    """Fixed masks."""

    name = "static"
    uses = Method.uses | {"init"}

    def __init__(self, *, snip: Snip | None = None, **method: Any) -> None:
        super().__init__(**method)
        self._snip = snip
        self._chosen = snip is None

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        if shares_out_nothing(config) and config.distribution == "table":
            raise UserError("sparsity.distribution=table does not go with sparsity.init=snip, which chooses over all layers")
        return config

    @classmethod
    def plan(cls, setting: Setting) -> Plan:
        init = setting.config.init
        if init == "snip":
            return plan_snip(setting)
        units = setting.units()
        masks = largest_masks(setting, units) if init == "magnitude" else setting.random_masks(units)
        return Plan(setting=setting, initial_mask=masks, active=setting.active(units))

    @classmethod
    def foresee(cls, plan: Plan, made: Sequence[int]) -> Course:
        """SNIP chooses in the first step, in place of the optimizer's, and trains from the second on."""
        snip: Snip | None = plan.options.get("snip")
        if snip is None:
            return resting(plan)
        densities = snip.foresee(plan.setting.shapes)
        line = Line(initial=initial_densities(plan), moves=[Move(place=0, from_place=1, densities=densities)])
        return Course(lines=[line], estimate=LIKE_ERK if snip.structure.layer_wide else "")

    @classmethod
    def replaced(cls, plan: Plan, made: Sequence[int]) -> Sequence[int]:
        return [0] if "snip" in plan.options else []

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
