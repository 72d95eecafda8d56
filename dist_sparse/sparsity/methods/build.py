"""From the sparsity section of a configuration to a method with its masks."""

import dataclasses
import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dist_sparse.config.schema import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator
from dist_sparse.sparsity import distributions, scores
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.method import Method, WeightAccess
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.drop_grow import DEFAULTS, DropAndGrow
from dist_sparse.sparsity.schedules import Constant, Cosine, DropSchedule, Linear, UpdateSchedule
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import STRUCTURES, Structure

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


def resolve(config: SparsityConfig) -> SparsityConfig:
    """Fill in the method's own defaults, and refuse or warn of what does not fit the method.

    Raises:
        UserError: unknown method or structure, or a density that is missing or given twice.
    """
    method = _lookup("sparsity.method", config.method, METHODS)
    _lookup("sparsity.structure", config.structure, STRUCTURES)
    for key in sorted(set(_given(config)) - method.uses):
        _log.warning("sparsity.%s is set but method %s does not use it", key, config.method)
    if "density" in method.uses:
        _check_density(config)
    if issubclass(method, DropAndGrow):
        update = config.update
        missing = {key: value for key, value in DEFAULTS[update.form].items() if getattr(update, key) is None}
        config = dataclasses.replace(config, update=dataclasses.replace(update, **missing))
    return config


def build_method(
    config: SparsityConfig, weights: Mapping[str, Tensor], access: WeightAccess, run: Run, *, remask: bool
) -> Method:
    """The method of a resolved configuration, with its initial masks for the sparse layers' ``weights``. Collective."""
    cls = METHODS[config.method]
    weights = weights if "density" in cls.uses else {}
    structure = STRUCTURES[config.structure]()
    shapes = {name: weight.shape for name, weight in weights.items()}
    agreement = Agreement(shapes, rank=run.rank, world_size=run.world_size, device=run.device)
    masks = Masks(weights)
    if weights:
        units = _active_units(config, shapes, structure)
        draw = partial(_random_mask, shapes=shapes, units=units, structure=structure, run=run)
        masks.replace(agreement.decide(draw))
    options: dict[str, Any] = {"access": access, "masks": masks, "agreement": agreement, "remask": remask}
    if issubclass(cls, DropAndGrow):
        update = config.update
        options |= {
            "structure": structure,
            "schedule": _update_schedule(config, run),
            "form": update.form,
            "gradient_steps": update.gradient_steps,
            "seed": run.seed,
        }
    return cls(**options)


def _active_units(config: SparsityConfig, shapes: distributions.Shapes, structure: Structure) -> dict[str, int]:
    """Active units per selection set of each layer."""
    for name, shape in shapes.items():
        if reason := structure.misfit(shape):
            raise UserError(
                f"sparsity.structure={config.structure} does not fit layer {name!r}: {reason}; add it to sparsity.keep_dense"
            )
    distribute = _distribution(config, shapes)
    density = config.density or 1.0
    try:
        return distributions.allocate(shapes, distribute(density), structure)
    except ValueError as error:
        if config.distribution == "table":
            raise UserError(f"sparsity.table: {error}") from error
        highest = distributions.highest_sparsity(shapes, distribute, structure)
        raise UserError(
            f"sparsity.density={density:g} cannot be reached: {error}; the highest sparsity of distribution "
            f"{config.distribution} on this model is {highest:.4f} (density {1 - highest:.4f}), or more with small layers in "
            "sparsity.keep_dense"
        ) from error


def _distribution(config: SparsityConfig, shapes: distributions.Shapes) -> Callable[[float], distributions.Densities]:
    """From the overall density to a density per layer."""
    if config.distribution == "table":
        return lambda _: distributions.table(shapes, config.table)
    if config.distribution == "uniform":
        return partial(distributions.uniform, shapes)
    return lambda density: distributions.erdos_renyi(
        shapes, density, power=config.er_power, kernel=config.distribution == "erk"
    )


def _random_mask(
    name: str, *, shapes: distributions.Shapes, units: Mapping[str, int], structure: Structure, run: Run
) -> Tensor:
    """A uniformly random mask with an exact count, the same on any number of ranks."""
    rows, columns, _ = structure.counts(shapes[name])
    score = scores.random((rows, columns), generator("initial mask", run.seed, name, device=run.device))
    chosen = top_k(score, torch.full((rows,), units[name]), among=torch.ones_like(score, dtype=torch.bool))
    return structure.mask(chosen, shapes[name])


def _update_schedule(config: SparsityConfig, run: Run) -> UpdateSchedule:
    update = config.update
    assert update.interval is not None and update.end is not None, "resolve() fills these in"
    interval = update.interval.steps(run.steps_per_epoch, run.total_steps)
    end = update.end.steps(run.steps_per_epoch, run.total_steps)
    if interval < 1:
        raise UserError(f"sparsity.update.interval={update.interval} is less than one step")
    if update.gradient_steps > interval:
        raise UserError(
            f"sparsity.update.gradient_steps={update.gradient_steps} is longer than the interval of {interval} steps"
        )
    if interval >= end:
        _log.warning("the masks never move: the first update would be at step %d and updates end at step %d", interval, end)
    return UpdateSchedule(interval=interval, end=end, drop=_drop_schedule(config, end))


def _drop_schedule(config: SparsityConfig, end: int) -> DropSchedule:
    update = config.update
    assert update.drop_fraction is not None and update.drop_floor is not None, "resolve() fills these in"
    if update.drop_schedule == "constant":
        return Constant(start=update.drop_fraction)
    shape = Cosine if update.drop_schedule == "cosine" else Linear
    return shape(start=update.drop_fraction, floor=update.drop_floor, end=max(end, 1))


def _check_density(config: SparsityConfig) -> None:
    if config.distribution == "table":
        if config.density is not None:
            raise UserError(
                "sparsity.density and sparsity.distribution=table exclude each other: the table gives every layer its density"
            )
        if not config.table:
            raise UserError("sparsity.distribution=table needs sparsity.table, such as {'*': 0.1}")
    elif config.density is None:
        raise UserError(f"sparsity.density is needed for method {config.method}: a number above 0 and up to 1, such as 0.1")
    elif config.table:
        raise UserError(f"sparsity.table needs sparsity.distribution=table, not {config.distribution}")


def _lookup(key: str, name: str, known: Mapping[str, type]) -> type:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(nearest)}; " if nearest else ""
        raise UserError(f"{key}={name!r} is unknown; {hint}known: {', '.join(known)}")
    return known[name]


def _given(config: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose value is not the default."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value) and prefix == "" and item.name == "update":
            yield from _given(value, "update.")
        elif item.name != "method" and value != (
            item.default if item.default is not dataclasses.MISSING else item.default_factory()  # type: ignore[misc]
        ):
            yield f"{prefix}{item.name}"
