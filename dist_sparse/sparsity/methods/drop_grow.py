"""Dynamic sparse training by dropping and growing: what SET and RigL share, in both published forms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from dist_sparse.config.duration import Length
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.method import Decision, Method
from dist_sparse.sparsity.schedules import UpdateSchedule, drop_count
from dist_sparse.sparsity.selection import drop_and_grow, worst_per_row
from dist_sparse.sparsity.structures import Structure

Form = Literal["original", "itop"]

DEFAULTS: dict[Form, dict[str, Any]] = {
    "original": {
        "interval": Length(100, "steps"),
        "drop_fraction": 0.3,
        "drop_schedule": "cosine",
        "drop_floor": 0.0,
        "end": Length(0.75, "run"),
    },
    "itop": {
        "interval": Length(1000, "steps"),
        "drop_fraction": 0.5,
        "drop_schedule": "cosine",
        "drop_floor": 0.005,
        "end": Length(1.0, "run"),
    },
}
"""What each form fills into the keys of ``sparsity.update`` that are not given; the sources are in the methods' docstrings."""


class DropAndGrow(Method, ABC):
    """Every layer drops its smallest active weights and grows as many others; a subclass scores the growth.

    The two forms differ in their place in the step and in rounding:

    ========  ==============================  ===================  =========================================
    form      update                          units dropped        published in
    ========  ==============================  ===================  =========================================
    original  replaces the optimizer step     floor(f * active)    Evci et al., RigL, ICML 2020, 1911.11134
    itop      after the optimizer step        ceil(f * active)     Liu et al., ITOP, ICML 2021, 2102.02887
    ========  ==============================  ===================  =========================================

    Under a structure "weight" reads "unit". The fraction is of the layer's active units, and the layer's worst are dropped;
    where units compete within smaller sets, each set grows as many as it lost.

    A weight that is dropped and grown again in the same update keeps its value and momentum; a newly grown one starts with
    both at 0.
    """

    uses = Method.uses | {f"update.{key}" for key in ("form", *DEFAULTS["original"])}
    needs_gradient: ClassVar[bool]
    """Growth is scored by the dense gradient."""

    def __init__(
        self, *, structure: Structure, schedule: UpdateSchedule, form: Form, gradient_steps: int, seed: int, **method: Any
    ) -> None:
        super().__init__(**method)
        self._structure, self._schedule, self._form, self._seed = structure, schedule, form, seed
        self._gradient_steps = gradient_steps
        self._gradients: dict[str, Tensor] = {}
        self._last_step = 0
        self._due: float | None = None

    @abstractmethod
    def grow_score(self, name: str, step: int) -> Tensor:
        """Non-negative score [S, U] of every unit of a layer; the inactive units that score most grow."""

    def after_backward(self, step: int) -> Decision:
        self._due = self._schedule.due(self._last_step, step)
        self._last_step = step
        self._collect_gradients(step)
        if self._due is not None and self._form == "original":
            self._update(step, self._due)
        self.access.mask_gradients(self.masks)
        return Decision(skip_optimizer=self._due is not None and self._form == "original", updates_masks=self._due is not None)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._due is not None and self._form == "itop":
            self._update(step, self._due)

    def _update(self, step: int, fraction: float) -> None:
        self.replace_masks(self.agreement.decide(lambda name: self._select(name, step, fraction)))
        self._gradients.clear()

    def _select(self, name: str, step: int, fraction: float) -> Tensor:
        """The new mask of one layer."""
        weight = self.access.weight(name)
        active = self._structure.active(self.masks[name])
        count = drop_count(fraction, int(active.count_nonzero()), up=self._form == "itop")
        keep_score = self._structure.score(scores.magnitude(weight))
        drop = worst_per_row(active, keep_score, count)
        units = drop_and_grow(active, keep_score, self.grow_score(name, step), drop)
        return self._structure.mask(units, weight.shape)

    def _collect_gradients(self, step: int) -> None:
        """Sum dense gradients over the last steps before an update (the sum ranks like the mean).

        One step is enough by default, and then only the owner keeps a copy, and only until the step ends. Over several
        steps every rank keeps all layers, so that any rank's checkpoint holds them.
        """
        if not self.needs_gradient:
            return
        if self._gradient_steps == 1:
            layers = self.agreement.owned() if self._due is not None else ()
        else:
            distance = self._schedule.until_next(step)
            in_window = distance is not None and distance < self._gradient_steps
            layers = self.masks.names if in_window or self._due is not None else ()
        for name in layers:
            if name in self._gradients:
                self._gradients[name] += self.access.grad(name)
            else:
                self._gradients[name] = self.access.grad(name).clone()

    def state_dict(self) -> dict[str, Any]:
        gradients = {name: gradient.cpu() for name, gradient in self._gradients.items()}
        return {**super().state_dict(), "last_step": self._last_step, "gradients": gradients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._last_step = state["last_step"]
        self._gradients = {name: tensor.to(self.access.weight(name).device) for name, tensor in state["gradients"].items()}
