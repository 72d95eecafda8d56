"""What a method will do in a run, found out before the first step: its parameters, its first masks and a forecast."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from dist_sparse.sparsity.distributions import Densities
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.forecast import Forecast, NetworkForecast
from dist_sparse.sparsity.methods.initial import initial_masks
from dist_sparse.sparsity.schedules import UpdateSchedule

if TYPE_CHECKING:
    from dist_sparse.sparsity.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """What a method will do. Every rank makes the same plan, without the others.

    A method whose masks move, or that has parameters, has a subclass of its own, whose further fields are its parameters: the
    method reads them from its ``plan`` and is given nothing else.
    """

    method: "type[Method]"
    context: Context
    initial_mask: Callable[[str], Tensor]
    """The first mask of a layer; called on the layer's owner only."""
    active: Mapping[str, int]
    """The active weights of each layer in these masks."""

    @abstractmethod
    def forecast(self, made: Sequence[int]) -> Forecast:
        """What the masks will do in a run that makes the steps of these numbers (1 is the first), without an overflow.

        FLOPs, memory and the steps without an optimizer's step are told from it, before a run and by ``--plan``.
        """

    @property
    def settled_after(self) -> int | None:
        """The step after which no inactive weight becomes active again; None if that never comes."""
        return None

    @property
    def keeps_counts(self) -> bool:
        """Every layer has as many active weights at all times, within an update too."""
        return False

    @property
    def initial_densities(self) -> Densities:
        """The density of each layer before the first step."""
        return {name: self.active[name] / shape.numel() for name, shape in self.context.shapes.items()}


@dataclass(frozen=True, kw_only=True)
class FixedMasks(Plan):
    """Masks that never move. A method with this plan that moves them all the same fails at its first update."""

    @classmethod
    def of(cls, method: "type[Method]", context: Context) -> "FixedMasks":
        """Masks at the configured density, chosen as ``sparsity.init`` says: random ones, if the method does not use it."""
        units = context.initial_units() if context.weights else {}
        return cls(
            method=method, context=context, initial_mask=initial_masks(method, context, units), active=context.active(units)
        )

    def forecast(self, made: Sequence[int]) -> Forecast:
        return Forecast(networks=[NetworkForecast(initial=self.initial_densities)])

    @property
    def settled_after(self) -> int | None:
        return 0

    @property
    def keeps_counts(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class ScheduledPlan(Plan):
    """Masks that move when a schedule says so."""

    schedule: UpdateSchedule

    @property
    def settled_after(self) -> int | None:
        updates = self.schedule.regular(self.schedule.end)
        return updates[-1] if updates else 0
