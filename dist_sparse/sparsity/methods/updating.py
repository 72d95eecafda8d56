"""Methods whose masks move on a schedule: what dropping and growing shares with pruning."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dist_sparse.sparsity.methods.base import Decision, Method
from dist_sparse.sparsity.methods.plan import ScheduledPlan


class Updating(Method):
    """Moves the masks when the schedule says so, instead of the optimizer's step or after it."""

    def __init__(self, plan: ScheduledPlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._structure, self._schedule = plan.context.structure, plan.schedule
        self._last_step = self._previous_step = 0
        """The last step whose gradients were good, and the one before it."""
        self._due: int | None = None
        """The regular step of the update that this step makes (an earlier one after overflows)."""

    @property
    def replaces_step(self) -> bool:
        """An update takes the place of the optimizer's step."""
        return False

    @abstractmethod
    def update(self, step: int, regular: int) -> None:
        """Update the masks at ``step``. Collective.

        ``regular`` is the scheduled step that this update belongs to; it is earlier than ``step`` after overflows.
        """

    def collect(self, step: int) -> None:
        """Take what the update needs from this step's gradients, before they are masked."""

    def chooses(self, step: int) -> bool:
        return self._schedule.due_step(self._last_step, step) is not None

    def after_backward(self, step: int) -> Decision:
        self._due = self._schedule.due_step(self._last_step, step)
        self.collect(step)
        self._previous_step, self._last_step = self._last_step, step
        due = self._due is not None
        if self._due is not None and self.replaces_step:
            self._update_gathered(step, self._due)
        self.access.mask_gradients(self.backward_masks)
        return Decision(skip_optimizer=due and self.replaces_step, updates_masks=due)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._due is not None and not self.replaces_step:
            self._update_gathered(step, self._due)

    def _update_gathered(self, step: int, regular: int) -> None:
        owned = self.agreement.owned()
        with self.access.gathered(weights=owned):
            if self.agreement.all_finite([*map(self.access.values, owned), *self.inputs_of(owned)]):
                self.update(step, regular)
            else:
                self.postpone()

    def inputs_of(self, layers: Sequence[str]) -> list[Tensor]:
        """What an update of some layers goes by beside their weights."""
        return []

    def postpone(self) -> None:
        """Leave an update to a later step: weights or what was gathered from gradients are not finite."""
        self._last_step = self._previous_step
        self.changed = dict.fromkeys(self.masks.names, 0)

    def settled(self, step: int) -> bool:
        return super().settled(self._last_step)  # updates that fall on later steps are still to be made up for

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "last_step": self._last_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._last_step = state["last_step"]
