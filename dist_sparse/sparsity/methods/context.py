"""What a method plans with, each rank for itself: its configuration and the run and the layers that it meets."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Size, Tensor

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator
from dist_sparse.sparsity import distributions, scores
from dist_sparse.sparsity.methods.carried import Carried
from dist_sparse.sparsity.methods.fit import check_fit, warn_of_rounding
from dist_sparse.sparsity.schedules import Constant, Cosine, DropSchedule, Linear, UpdateSchedule
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import Structure

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
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
class Context:
    """A resolved configuration, the facts of the run, and the layers that get masks."""

    config: SparsityConfig
    run: RunFacts
    structure: Structure
    weights: Mapping[str, Tensor]
    carried: Carried | None = None
    """The first masks, where the run takes them over."""

    @property
    def shapes(self) -> dict[str, Size]:
        return {name: weight.shape for name, weight in self.weights.items()}

    def steps(self, length: Length) -> int:
        return length.steps(self.run.steps_per_epoch, self.run.total_steps)

    def interval(self) -> int:
        """Steps between two updates.

        Raises:
            UserError: less than one.
        """
        given = self.config.update.interval
        assert given is not None, "resolve() fills it in"
        interval = self.steps(given)
        if interval < 1:
            raise UserError(f"sparsity.update.interval={given} is less than one step")
        return interval

    def update_schedule(self) -> UpdateSchedule:
        """When masks move, and how far.

        Raises:
            UserError: a gradient averaged over more steps than lie between two updates.
        """
        update, interval = self.config.update, self.interval()
        assert update.end is not None, "resolve() fills it in"
        end = self.steps(update.end)
        if update.gradient_steps > interval:
            raise UserError(
                f"sparsity.update.gradient_steps={update.gradient_steps} is longer than the interval of {interval} steps"
            )
        if interval >= end:
            _log.warning("the masks never move: the first update would be at step %d and updates end at step %d", interval, end)
        return UpdateSchedule(interval=interval, end=end, drop=drop_schedule(update, end))

    def distribute(self, density: float) -> distributions.Densities:
        """The density of each layer at an overall density."""
        config = self.config
        if config.distribution == "table":
            return distributions.table(self.shapes, config.table)
        if config.distribution == "uniform":
            return distributions.uniform(self.shapes, density)
        kernel = config.distribution == "erk"
        return distributions.erdos_renyi(self.shapes, density, power=config.er_power, kernel=kernel)

    def units(self, density: float | None = None) -> dict[str, int]:
        """Active units per selection set of each layer, at the configured density or another.

        Raises:
            UserError: the structure does not fit the layers, or a layer would be left empty or denser than it can be.
        """
        config, shapes, structure = self.config, self.shapes, self.structure
        check_fit(config, structure, shapes)
        density = density or config.density or 1.0
        try:
            densities = self.distribute(density)
            units = distributions.allocate(shapes, densities, structure)
        except ValueError as error:
            if config.distribution == "table":
                raise UserError(f"sparsity.table: {error}") from error
            if isinstance(error, distributions.AboveCapacity):
                key = "density" if density == config.density else "ramp.initial_density"
                raise UserError(f"sparsity.{key}={density:g} cannot be reached: {error}{self._way_down(density)}") from error
            highest = distributions.highest_sparsity(shapes, self.distribute, structure)
            raise UserError(
                f"sparsity.density={density:g} cannot be reached: {error}; the highest sparsity of distribution "
                f"{config.distribution} on this model is {highest:.4f} (density {1 - highest:.4f}), or more with small layers "
                "in sparsity.keep_dense"
            ) from error
        warn_of_rounding(config, structure, shapes, densities, units)
        return units

    def initial_units(self, density: float | None = None) -> dict[str, int]:
        """Active units per selection set of each layer before the first step: :meth:`units`, or those of masks taken over.

        Raises:
            UserError: as :meth:`units`.
        """
        if self.carried is None:
            return self.units(density)
        sizes = {name: self.structure.counts(shape) for name, shape in self.shapes.items()}
        return {name: self.carried.active[name] // (sets * size) for name, (sets, _, size) in sizes.items()}

    def _way_down(self, density: float) -> str:
        """What brings a layer below its structure's capacity beside a lower density."""
        if self.config.distribution == "uniform" or density > self.structure.capacity:
            return ""
        return "; sparsity.distribution=uniform gives all layers the same"

    def all_units(self) -> dict[str, int]:
        """The units per selection set of each layer.

        Raises:
            UserError: the structure does not fit the layers.
        """
        check_fit(self.config, self.structure, self.shapes)
        return {name: self.structure.counts(shape)[1] for name, shape in self.shapes.items()}

    def active(self, units: Mapping[str, int]) -> dict[str, int]:
        """The active weights of each layer with ``units`` a selection set."""
        counts = {name: self.structure.counts(shape) for name, shape in self.shapes.items()}
        return {name: sets * units[name] * size for name, (sets, _, size) in counts.items()}

    def random_mask(self, units: Mapping[str, int], name: str) -> Tensor:
        """A uniformly random mask of a layer with ``units`` a selection set, the same on any number of ranks."""
        shape = self.weights[name].shape
        rows, columns, _ = self.structure.counts(shape)
        score = scores.random((rows, columns), generator("initial mask", self.run.seed, name)).to(self.run.device)
        chosen = top_k(score, torch.full((rows,), units[name]), among=torch.ones_like(score, dtype=torch.bool))
        choice = self.structure.random_choice(shape, generator("choose", self.run.seed, 0, name))
        return self.structure.mask(chosen, shape, choose_by=choice)

    def random_masks(self, units: Mapping[str, int]) -> Callable[[str], Tensor]:
        """:meth:`random_mask` by layer name."""
        return partial(self.random_mask, units)


def drop_schedule(update: UpdateConfig, end: int) -> DropSchedule:
    """The drop fraction by step, down to the floor at step ``end``.

    Raises:
        UserError: the floor is above the start.
    """
    assert update.drop_fraction is not None and update.drop_floor is not None, "resolve() fills these in"
    if update.drop_schedule == "constant":
        return Constant(start=update.drop_fraction)
    if update.drop_floor > update.drop_fraction and update.removal != "threshold":
        raise UserError(
            f"sparsity.update.drop_floor={update.drop_floor:g} is above sparsity.update.drop_fraction="
            f"{update.drop_fraction:g}: the fraction comes down to its floor"
        )
    shape = Cosine if update.drop_schedule == "cosine" else Linear
    return shape(start=update.drop_fraction, floor=update.drop_floor, end=max(end, 1))
