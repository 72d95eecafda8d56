"""From a resolved configuration to a ramp of densities and the updates that follow it."""

import dataclasses
from collections.abc import Mapping

from torch import Size

from dist_sparse.config.schema import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.pruning import GlobalPruner, Pruner, UniformPruner, classifier_to_spare
from dist_sparse.sparsity.schedules import Constant, CubicRamp, UpdateSchedule, share_of
from dist_sparse.sparsity.structures import Structure

Shapes = Mapping[str, Size]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Window:
    """When the ramp begins and ends, in steps, and the interval of updates."""

    start: int
    end: int
    interval: int


def at_start(config: SparsityConfig, *, pruned: bool, chosen: bool) -> SparsityConfig:
    """The configuration with the density that training begins with: for a method that is ``pruned`` the ramp's (if it can be
    ``chosen``) or 1, for others the density itself.

    Raises:
        UserError: the ramp would have to rise.
    """
    if not pruned:
        return config
    initial = config.ramp.initial_density if chosen else 1.0
    assert initial is not None and config.density is not None, "resolve() fills these in"
    if initial < config.density:
        raise UserError(
            f"sparsity.ramp.initial_density={initial:g} is below sparsity.density={config.density:g}: pruning only comes down"
        )
    return dataclasses.replace(config, density=initial, **({} if chosen else {"distribution": "uniform"}))


def build_pruner(
    config: SparsityConfig, window: Window, shapes: Shapes, structure: Structure, *, globally: bool, classifier: str
) -> Pruner:
    """The pruner of the resolved configuration.

    Raises:
        UserError: no update falls into the ramp, or a layer that would be left empty.
    """
    initial, final = config.ramp.initial_density, config.density
    assert final is not None, "resolve() asks for it"
    first, last = window.start // window.interval, window.end // window.interval
    if last <= first:
        raise UserError(
            f"sparsity.ramp goes from step {window.start} to step {window.end}: no update, one in {window.interval} steps, "
            "falls into it"
        )
    ramp = CubicRamp(initial=initial or 1.0, final=final, first=first, last=last)
    parts = {"ramp": ramp, "interval": window.interval, "structure": structure}
    if globally:
        return GlobalPruner(**parts)
    spared = classifier_to_spare(classifier, shapes, final) if structure.density is None else None  # N:M has N of M everywhere
    pruner = UniformPruner(**parts, shapes=shapes, classifier=spared)
    for name, density in pruner.densities(ramp(last)).items():
        units = structure.counts(shapes[name])[1]
        if share_of(density, units) < 1:
            raise UserError(f"sparsity.density={final:g} would leave layer {name!r} none of its {units} units")
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
