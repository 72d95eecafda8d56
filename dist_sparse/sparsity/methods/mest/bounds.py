"""MEST's bounds: from the configuration's lists of densities to whole units by layer and phase.

A bound is an overall density. A layer's share of it comes from the same distribution as its density does: uniform and
Erdos-Renyi profiles are computed at the bound, so that layers which are dense stay dense and the total is met; the densities
of a table are scaled alike, at most to 1, until the bound is met. Profiles that are not uniform stay so.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity import distributions
from dist_sparse.sparsity.methods.context import Context

_log = logging.getLogger(__name__)

INTERVAL = Length(5, "epochs")
KEEP = (0.8, 0.9, 1.0)
"""What EM keeps, as fractions of the density: 0.92-0.91-0.90 at sparsity 0.90 and 0.96-0.955-0.95 at 0.95."""
DECAY = (Length(90 / 160, "run"), Length(120 / 160, "run"))


@dataclass(frozen=True)
class Phase:
    """Units per selection set of each layer: what a mutation keeps, and what it grows to."""

    keep: Mapping[str, int]
    grow_to: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The phases; phase i begins when ``decay[i - 1]`` steps are done. A mutation is due at every multiple of ``interval``."""

    interval: int
    decay: tuple[int, ...]
    phases: tuple[Phase, ...]

    def latest_mutation(self, done: int) -> int:
        """The last number of done steps, up to ``done``, at which a mutation is due; the first is 0."""
        return done // self.interval * self.interval

    def next_mutation(self, done: int) -> int:
        """The first number of done steps, from ``done`` on, at which a mutation is due."""
        return -(-done // self.interval) * self.interval

    def phase(self, done: int) -> Phase:
        return self.phases[sum(done >= decay for decay in self.decay)]


def resolve_bounds(config: SparsityConfig) -> SparsityConfig:
    """Fill in EM's defaults, and refuse lists that do not fit together.

    Raises:
        UserError: one line that names the key.
    """
    mest, update = config.mest, config.update
    keep, grow_to = list(mest.keep), list(mest.grow_to)
    if config.density is None and not (keep and grow_to):
        raise UserError("sparsity.mest.keep and sparsity.mest.grow_to are needed with distribution table, as overall densities")
    if config.density is not None:
        keep = keep or ([config.density] * len(grow_to) if grow_to else [round(config.density * share, 9) for share in KEEP])
        grow_to = grow_to or [config.density] * len(keep)
    decay = list(DECAY) if mest.decay is None and len(keep) == len(DECAY) + 1 else list(mest.decay or ())
    _check_lists(config.density, keep, grow_to, decay)
    return dataclasses.replace(
        config,
        update=dataclasses.replace(update, interval=update.interval or INTERVAL),
        mest=dataclasses.replace(mest, keep=keep, grow_to=grow_to, decay=decay),
    )


def _check_lists(density: float | None, keep: Sequence[float], grow_to: Sequence[float], decay: Sequence[Length]) -> None:
    if not len(keep) == len(grow_to) == len(decay) + 1:
        raise UserError(
            f"sparsity.mest: keep has {len(keep)} densities, grow_to {len(grow_to)} and decay {len(decay)} lengths; keep and "
            "grow_to must be equally long, and decay one shorter"
        )
    if max(keep) > min(grow_to):
        raise UserError(f"sparsity.mest.keep={max(keep):g} is above grow_to={min(grow_to):g}: what is kept cannot be more")
    if list(keep) != sorted(keep) or list(grow_to) != sorted(grow_to, reverse=True):
        raise UserError("sparsity.mest: bounds are out of order; keep must not fall and grow_to must not rise")
    if density is not None and not max(keep) <= density <= min(grow_to):
        raise UserError(
            f"sparsity.density={density:g} must lie between sparsity.mest.keep={max(keep):g} and grow_to={min(grow_to):g}"
        )


def plan_bounds(context: Context) -> Bounds:
    """The bounds of a resolved configuration in whole units and steps.

    Raises:
        UserError: a bound leaves a layer without a unit, lengths that do not grow, or a last phase without a mutation.
    """
    config, shapes, structure = context.config, context.shapes, context.structure
    assert config.mest.decay is not None, "resolve() fills it in"
    interval, decay = context.interval(), [context.steps(length) for length in config.mest.decay]
    if any(later <= earlier for earlier, later in itertools.pairwise(decay)):
        raise UserError(f"sparsity.mest.decay={', '.join(map(str, config.mest.decay))} must grow")

    def units(key: str, density: float) -> dict[str, int]:
        profile = context.distribute(density)
        if config.distribution == "table":
            profile = scaled(shapes, profile, density)
        try:
            return distributions.allocate(shapes, profile, structure)
        except ValueError as error:
            raise UserError(f"sparsity.mest.{key}={density:g} cannot be reached: {error}") from error

    pairs = zip(config.mest.keep, config.mest.grow_to, strict=True)
    phases = tuple(Phase(units("keep", keep), units("grow_to", grow_to)) for keep, grow_to in pairs)
    if all(phase.keep == phase.grow_to for phase in phases):
        _log.warning("the masks never move: in whole units of structure %s all that is grown is kept", config.structure)
    bounds = Bounds(interval=interval, decay=tuple(decay), phases=phases)
    last = bounds.latest_mutation(context.run.total_steps - 1)
    if bounds.phase(last).grow_to != phases[-1].grow_to:
        raise UserError(
            f"sparsity.mest.decay ends at step {decay[-1]} and the last mutation is at step {last}, one in {interval} steps "
            "(sparsity.update.interval): the density would not come down to the last of sparsity.mest.grow_to"
        )
    return bounds


def scaled(shapes: distributions.Shapes, densities: distributions.Densities, bound: float) -> distributions.Densities:
    """A profile brought in proportion from its own overall density to ``bound``.

    No layer becomes more than dense; the others make up for what such layers cannot take, in the same proportion.
    """
    weights, dense = {name: shape.numel() for name, shape in shapes.items()}, set[str]()
    total = sum(weights.values())
    while True:
        rest = {name: density for name, density in densities.items() if name not in dense}
        share = bound - sum(weights[name] for name in dense) / total
        overall = sum(density * weights[name] for name, density in rest.items()) / total
        raised = {name: density * share / overall for name, density in rest.items()}
        if not (full := {name for name, density in raised.items() if density > 1}):
            return {name: raised.get(name, 1.0) for name in densities}
        dense |= full
