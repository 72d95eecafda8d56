"""From a resolved sparsity section to a method with its masks: first the plan, which each rank makes alone, then the method."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dist_sparse.config.schema import SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator
from dist_sparse.sparsity import distributions, scores
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.method import Method, WeightAccess
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.combinations import check_fit, warn_of_rounding
from dist_sparse.sparsity.methods.drop_grow import DropAndGrow
from dist_sparse.sparsity.methods.gmp import Gmp
from dist_sparse.sparsity.methods.granet import GraNet
from dist_sparse.sparsity.methods.mest import Mest, largest_weights
from dist_sparse.sparsity.methods.mest_bounds import Bounds, plan_bounds
from dist_sparse.sparsity.methods.pruning import Pruner
from dist_sparse.sparsity.methods.ramp import Window, at_start, build_pruner, with_ramp
from dist_sparse.sparsity.methods.updating import Updating
from dist_sparse.sparsity.schedules import Constant, Cosine, DropSchedule, Linear, UpdateSchedule
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import Structure, parse_structure

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Run:
    """The facts of a run that a method needs beside its configuration."""

    seed: int
    steps_per_epoch: int
    total_steps: int
    rank: int
    world_size: int
    device: torch.device
    classifier: str = ""
    """The model's last weight layer, masked or not."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a method will do: the layers it masks, the units each keeps in a selection set, and when masks move."""

    config: SparsityConfig
    run: Run
    structure: Structure
    weights: Mapping[str, Tensor]
    units: Mapping[str, int]
    schedule: UpdateSchedule | None
    pruner: Pruner | None
    bounds: Bounds | None


def plan_method(config: SparsityConfig, weights: Mapping[str, Tensor], run: Run) -> Plan:
    """Plan a resolved configuration for a model's sparse layers.

    Raises:
        UserError: a density that cannot be reached, a structure that does not fit, or an impossible schedule.
    """
    method = METHODS[config.method]
    masked = weights if "density" in method.uses else {}
    structure = parse_structure(config.structure)
    shapes = {name: weight.shape for name, weight in masked.items()}
    schedule = pruner = None
    pruned = issubclass(method, Gmp | GraNet)
    start = at_start(config, pruned=pruned, chosen="ramp.initial_density" in method.uses)
    units = _active_units(start, shapes, structure) if masked else {}
    if issubclass(method, DropAndGrow):
        schedule = _update_schedule(config.update, run)
        _check_units(config, shapes, structure)
    bounds = _bounds(config, run, masked, structure) if issubclass(method, Mest) else None
    if issubclass(method, Gmp | GraNet):
        window = _window(config, run)
        pruner = build_pruner(
            dataclasses.replace(config, ramp=dataclasses.replace(config.ramp, initial_density=start.density)),
            window,
            shapes,
            structure,
            globally=method.prunes_globally,
            classifier=run.classifier,
        )
        schedule = with_ramp(schedule, pruner, window)
    return Plan(
        config=config,
        run=run,
        structure=structure,
        weights=masked,
        units=units,
        schedule=schedule,
        pruner=pruner,
        bounds=bounds,
    )


def build_method(plan: Plan, access: WeightAccess, *, remask: bool) -> Method:
    """The planned method with its initial masks. Collective."""
    run, shapes = plan.run, {name: weight.shape for name, weight in plan.weights.items()}
    agreement = Agreement(shapes, rank=run.rank, world_size=run.world_size, device=run.device)
    masks = Masks(plan.weights)
    masks.replace(agreement.decide(lambda name: _initial_mask(plan, name)) if shapes else {})
    options: dict[str, Any] = {"access": access, "masks": masks, "agreement": agreement, "remask": remask}
    cls = METHODS[plan.config.method]
    if issubclass(cls, Updating):
        assert plan.schedule is not None, "plan_method() makes one"
        options |= {"structure": plan.structure, "schedule": plan.schedule}
    if issubclass(cls, DropAndGrow):
        update = plan.config.update
        keys = ("form", "gradient_steps", "growth", "removal", "removal_threshold", "redistribution")
        options |= {"seed": run.seed, **{key: getattr(update, key) for key in keys}}
    if plan.pruner is not None:
        options["pruner"] = plan.pruner
    if plan.bounds is not None:
        gradient = plan.config.mest.removal_gradient
        options |= {"structure": plan.structure, "bounds": plan.bounds, "removal_gradient": gradient, "seed": run.seed}
    return cls(**options)


def _initial_mask(plan: Plan, name: str) -> Tensor:
    if plan.bounds is not None:
        return largest_weights(plan.weights[name].detach(), plan.units[name], plan.structure)
    return _random_mask(plan, name)


def _random_mask(plan: Plan, name: str) -> Tensor:
    """A uniformly random mask with an exact count, the same on any number of ranks."""
    shape = plan.weights[name].shape
    rows, columns, _ = plan.structure.counts(shape)
    score = scores.random((rows, columns), generator("initial mask", plan.run.seed, name)).to(plan.run.device)
    chosen = top_k(score, torch.full((rows,), plan.units[name]), among=torch.ones_like(score, dtype=torch.bool))
    return plan.structure.mask(chosen, shape)


def _active_units(config: SparsityConfig, shapes: distributions.Shapes, structure: Structure) -> dict[str, int]:
    """Active units per selection set of each layer."""
    check_fit(config, structure, shapes)
    distribute = _distribution(config, shapes)
    density = config.density or 1.0
    try:
        densities = distribute(density)
        units = distributions.allocate(shapes, densities, structure)
    except ValueError as error:
        if config.distribution == "table":
            raise UserError(f"sparsity.table: {error}") from error
        highest = distributions.highest_sparsity(shapes, distribute, structure)
        raise UserError(
            f"sparsity.density={density:g} cannot be reached: {error}; the highest sparsity of distribution "
            f"{config.distribution} on this model is {highest:.4f} (density {1 - highest:.4f}), or more with small layers in "
            "sparsity.keep_dense"
        ) from error
    warn_of_rounding(config, structure, shapes, densities, units)
    return units


def _distribution(config: SparsityConfig, shapes: distributions.Shapes) -> Callable[[float], distributions.Densities]:
    """From the overall density to a density per layer."""
    if config.distribution == "table":
        return lambda _: distributions.table(shapes, config.table)
    if config.distribution == "uniform":
        return partial(distributions.uniform, shapes)
    kernel = config.distribution == "erk"
    return lambda density: distributions.erdos_renyi(shapes, density, power=config.er_power, kernel=kernel)


def _bounds(config: SparsityConfig, run: Run, weights: Mapping[str, Tensor], structure: Structure) -> Bounds:
    shapes = {name: weight.shape for name, weight in weights.items()}
    distribute = _distribution(config, shapes)
    bounds = plan_bounds(
        config, shapes, structure, distribute, lambda length: length.steps(run.steps_per_epoch, run.total_steps)
    )
    if all(phase.keep == phase.grow_to for phase in bounds.phases):
        _log.warning("the masks never move: in whole units of structure %s all that is grown is kept", config.structure)
    return bounds


def _update_schedule(update: UpdateConfig, run: Run) -> UpdateSchedule:
    assert update.interval is not None and update.end is not None, "resolve() fills these in"
    interval = _interval(update, run)
    end = update.end.steps(run.steps_per_epoch, run.total_steps)
    if update.gradient_steps > interval:
        raise UserError(
            f"sparsity.update.gradient_steps={update.gradient_steps} is longer than the interval of {interval} steps"
        )
    if interval >= end:
        _log.warning("the masks never move: the first update would be at step %d and updates end at step %d", interval, end)
    return UpdateSchedule(interval=interval, end=end, drop=_drop_schedule(update, end))


def _drop_schedule(update: UpdateConfig, end: int) -> DropSchedule:
    assert update.drop_fraction is not None and update.drop_floor is not None, "resolve() fills these in"
    if update.drop_schedule == "constant":
        return Constant(start=update.drop_fraction)
    shape = Cosine if update.drop_schedule == "cosine" else Linear
    return shape(start=update.drop_fraction, floor=update.drop_floor, end=max(end, 1))


def _interval(update: UpdateConfig, run: Run) -> int:
    assert update.interval is not None, "resolve() fills it in"
    interval = update.interval.steps(run.steps_per_epoch, run.total_steps)
    if interval < 1:
        raise UserError(f"sparsity.update.interval={update.interval} is less than one step")
    return interval


def _window(config: SparsityConfig, run: Run) -> Window:
    start, end = config.ramp.start, config.ramp.end
    assert start is not None and end is not None, "resolve() fills these in"
    steps = {"start": start.steps(run.steps_per_epoch, run.total_steps), "end": end.steps(run.steps_per_epoch, run.total_steps)}
    if steps["end"] > run.total_steps:
        raise UserError(f"sparsity.ramp.end={end} is after the run's {run.total_steps} steps: the density would not be reached")
    return Window(**steps, interval=_interval(config.update, run))


def _check_units(config: SparsityConfig, shapes: distributions.Shapes, structure: Structure) -> None:
    """Options that look at single weights need a structure of single weights."""
    if config.update.removal == "set" and any(structure.counts(shape)[2] > 1 for shape in shapes.values()):
        raise UserError(
            f"sparsity.update.removal=set looks at signs; structure {config.structure} drops several weights at once"
        )
    if config.update.redistribution != "none" and any(structure.counts(shape)[::2] != (1, 1) for shape in shapes.values()):
        raise UserError(
            f"sparsity.update.redistribution={config.update.redistribution} moves single weights between layers, "
            f"which structure {config.structure} does not allow"
        )
