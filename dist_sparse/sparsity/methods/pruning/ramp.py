"""From a resolved configuration to a ramp of densities and the updates that follow it."""

import dataclasses
from collections.abc import Sequence

from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.fit import check_units_of_all_layers, warn_of_rounding
from dist_sparse.sparsity.methods.forecast import LIKE_ERK, Forecast, MaskUpdate, NetworkForecast, scheduled_updates
from dist_sparse.sparsity.methods.plan import ScheduledPlan
from dist_sparse.sparsity.methods.pruning.pruners import GlobalPruner, Pruner, UniformPruner, classifier_to_spare
from dist_sparse.sparsity.schedules import Constant, CubicRamp, UpdateSchedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """When the ramp begins and ends, in steps, and the interval of updates."""

    start: int
    end: int
    interval: int

    @classmethod
    def of(cls, context: Context) -> "Window":
        """The configured window.

        Raises:
            UserError: it ends after the run.
        """
        start, end = context.config.ramp.start, context.config.ramp.end
        assert start is not None and end is not None, "resolve() fills these in"
        if context.steps(end) > context.run.total_steps:
            raise UserError(
                f"sparsity.ramp.end={end} is after the run's {context.run.total_steps} steps: the density would not be reached"
            )
        return cls(start=context.steps(start), end=context.steps(end), interval=context.interval())

    def numbers(self) -> tuple[int, int]:
        """The number of the update where the ramp begins, and of the one where it ends.

        Raises:
            UserError: no update falls into the ramp.
        """
        first, last = self.start // self.interval, self.end // self.interval
        if last <= first:
            raise UserError(
                f"sparsity.ramp goes from step {self.start} to step {self.end}: no update falls into it, "
                f"one in {self.interval} steps (sparsity.update.interval)"
            )
        return first, last


def initial_density(context: Context) -> float:
    """The density that a ramp begins with.

    Raises:
        UserError: the ramp would have to rise.
    """
    initial, final = context.config.ramp.initial_density, context.config.density
    assert final is not None, "resolve() asks for it"
    told = f"sparsity.ramp.initial_density={initial}"
    if context.carried is not None:
        initial = context.carried.density(context.shapes)
        told = f"density {initial:.6g}, which sparsity.init=checkpoint begins with,"
    if initial is None:
        return 1.0
    if initial < final:
        raise UserError(f"{told} is below sparsity.density={final:g}: pruning only comes down")
    return initial


def build_pruner(context: Context, window: Window, initial: float, *, globally: bool) -> Pruner:
    """The pruner from ``initial`` density to the configured one.

    Raises:
        UserError: no update falls into the ramp, a layer that would be left empty, or less left than a unit.
    """
    config, structure, shapes = context.config, context.structure, context.shapes
    final = config.density
    assert final is not None, "resolve() asks for it"
    first, last = window.numbers()
    ramp = CubicRamp(initial=initial, final=final, first=first, last=last)
    parts = {"ramp": ramp, "interval": window.interval, "structure": structure}
    if globally:
        check_units_of_all_layers(config, structure, shapes)
        return GlobalPruner(**parts)
    given = structure.density is not None  # N:M has N of M everywhere
    spared = None if given else classifier_to_spare(context.run.classifier, shapes, final)
    pruner = UniformPruner(**parts, shapes=shapes, classifier=spared)
    densities = {name: float(density) for name, density in pruner.densities(ramp(last)).items()}
    left = pruner.units(ramp(last), {name: shape.numel() for name, shape in shapes.items()})
    for name, units in left.items():
        if units < 1:
            every = structure.counts(shapes[name])[1]
            raise UserError(f"sparsity.density={final:g} would leave layer {name!r} none of its {every} units")
    warn_of_rounding(config, structure, shapes, densities, left)
    return pruner


def with_ramp(schedule: UpdateSchedule | None, pruner: Pruner, window: Window) -> UpdateSchedule:
    """The updates of a method that prunes and then goes on as ``schedule`` says, or no more if there is none.

    Raises:
        UserError: updates end before the ramp does.
    """
    arrival = pruner.ramp.last * pruner.interval
    if schedule is None:
        return UpdateSchedule(interval=pruner.interval, start=window.start, end=arrival + 1, drop=Constant(start=0.0))
    if arrival >= schedule.end:
        raise UserError(
            f"sparsity.ramp.end is at step {arrival}, when updates (sparsity.update.end) are over at step {schedule.end}: "
            "the density would not be reached"
        )
    return dataclasses.replace(schedule, start=window.start)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningPlan(ScheduledPlan):
    """Masks that come down a ramp."""

    pruner: Pruner

    def forecast(self, made: Sequence[int]) -> Forecast:
        pruner, shapes = self.pruner, self.context.shapes
        densities = self.initial_densities
        updates = []
        for index, regular in scheduled_updates(self.schedule, made).items():
            if (number := regular // pruner.interval) <= pruner.ramp.last:
                densities = pruner.densities_at(pruner.ramp(number), shapes, densities)
            updates.append(MaskUpdate(index=index, from_index=index + 1, densities=densities))
        return Forecast(
            networks=[NetworkForecast(initial=self.initial_densities, updates=updates)],
            estimate=LIKE_ERK if isinstance(pruner, GlobalPruner) else "",
        )
