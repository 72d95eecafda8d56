"""What a method that drops and grows will do: its parameters and defaults, its checks and its forecast."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dist_sparse.config.duration import Length
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.drop_grow.redistribution import Redistribution
from dist_sparse.sparsity.methods.drop_grow.removal import Removal
from dist_sparse.sparsity.methods.forecast import Forecast, MaskUpdate, NetworkForecast, scheduled_updates
from dist_sparse.sparsity.methods.initial import initial_masks
from dist_sparse.sparsity.methods.plan import ScheduledPlan
from dist_sparse.sparsity.schedules import drop_count

_log = logging.getLogger(__name__)

Form = Literal["original", "itop"]
Growth = Literal["gradient", "random", "momentum", "random_unfired"]

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

REDISTRIBUTED = "layers exchange weights as training goes; they are assumed at the densities that they begin with"


@dataclass(frozen=True, kw_only=True)
class DropAndGrowPlan(ScheduledPlan):
    """Masks that drop and grow; every field is a key of ``sparsity.update``, filled in."""

    form: Form
    growth: Growth
    gradient_steps: int = 1
    removal: Removal = "magnitude"
    removal_threshold: float | None = None
    redistribution: Redistribution = "none"

    @classmethod
    def of(cls, method: type[Method], context: Context, *, form: Form, density: float | None = None) -> "DropAndGrowPlan":
        """The plan of a method whose masks begin at ``density``, the configured one by default.

        Raises:
            UserError: a density that cannot be reached, or options that do not go with the structure.
        """
        update = context.config.update
        assert update.growth is not None and update.redistribution is not None, "resolve() fills these in"
        units = context.initial_units(density)
        _check_units(context)
        _warn_of_standstill(context, units, itop=form == "itop")
        return cls(
            method=method,
            context=context,
            initial_mask=initial_masks(method, context, units),
            active=context.active(units),
            schedule=context.update_schedule(),
            form=form,
            growth=update.growth,
            gradient_steps=update.gradient_steps,
            removal=update.removal,
            removal_threshold=update.removal_threshold,
            redistribution=update.redistribution,
        )

    @property
    def needs_gradient(self) -> bool:
        """Growth or removal goes by the dense gradient of some steps."""
        return self.growth == "gradient" or self.removal == "taylor"

    @property
    def wants_few_gradients(self) -> bool:
        """A layer grows by one step's gradients, at most as many weights as a fraction of its active ones."""
        only_growth = self.gradient_steps == 1 and self.redistribution == "none" and not self.needs_average
        return self.growth == "gradient" and only_growth and self.removal != "threshold"

    @property
    def needs_average(self) -> bool:
        """Growth or redistribution goes by the average of all steps' dense gradients."""
        return "momentum" in (self.growth, self.redistribution)

    @property
    def keeps_counts(self) -> bool:
        return self.redistribution == "none"

    def forecast(self, made: Sequence[int]) -> Forecast:
        indices, densities = list(scheduled_updates(self.schedule, made)), self.initial_densities
        growing = indices if self.growth == "gradient" else []
        summing = {step for index in growing for step in range(max(0, index + 1 - self.gradient_steps), index + 1)}
        summed = bool(indices and self.needs_gradient and self.gradient_steps > 1)
        updates = [MaskUpdate(index=index, from_index=index + 1, densities=densities) for index in indices]
        return Forecast(
            networks=[NetworkForecast(initial=densities, updates=updates)],
            dense_gradient_steps=range(len(made)) if self.needs_average else sorted(summing),
            replaced_steps=indices if self.form == "original" else [],
            owned_copies=self.needs_average + summed,
            estimate="" if self.redistribution == "none" else REDISTRIBUTED,
        )


def _warn_of_standstill(context: Context, units: Mapping[str, int], *, itop: bool) -> None:
    """Tell of a share to drop that is less than a unit of every layer, from the first update on."""
    update, structure = context.config.update, context.structure
    if update.removal == "threshold" or update.redistribution != "none" or not units:
        return
    assert update.drop_fraction is not None, "resolve() fills it in"
    for name, shape in context.shapes.items():
        sets, _, size = structure.counts(shape)
        if drop_count(update.drop_fraction, sets * units[name], up=itop and size == 1):
            return
    _log.warning(
        "updates drop and grow nothing: sparsity.update.drop_fraction=%g is not a single unit of any layer",
        update.drop_fraction,
    )


def _check_units(context: Context) -> None:
    """Options that look at single weights need a structure of single weights."""
    config, structure, shapes = context.config, context.structure, context.shapes
    if config.update.removal == "set" and any(structure.counts(shape)[2] > 1 for shape in shapes.values()):
        raise UserError(
            f"sparsity.update.removal=set looks at signs; structure {config.structure} drops several weights at once"
        )
    if config.update.redistribution != "none" and any(structure.counts(shape)[::2] != (1, 1) for shape in shapes.values()):
        raise UserError(
            f"sparsity.update.redistribution={config.update.redistribution} moves single weights between layers, "
            f"which structure {config.structure} does not allow; with redistribution none every layer grows its own again"
        )
