"""Pruning along a ramp: which active units stay when the density comes down, over the whole network or in each layer."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Size, Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.distributions import Densities, Shapes, erdos_renyi
from dist_sparse.sparsity.global_selection import global_top_k
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.schedules import CubicRamp, share_of
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import Structure

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pruner(ABC):
    """Prunes by magnitude; a weight that is inactive never comes back by it."""

    ramp: CubicRamp
    interval: int
    structure: Structure

    def prune(
        self, regular: int, previous: int, access: WeightAccess, masks: Masks, agreement: Agreement
    ) -> dict[str, Tensor] | None:
        """The masks after the update of step ``regular``, or None after the ramp. Collective.

        ``previous`` is the last step that could have updated: where steps were left out, the update that ends the ramp may be
        one that is past its end.
        """
        if previous // self.interval >= self.ramp.last:
            return None
        return self.select(self.ramp(regular // self.interval), access, masks, agreement)

    @property
    def final(self) -> Fraction:
        """The density that the ramp ends at."""
        return self.ramp(self.ramp.last)

    def done(self, step: int) -> bool:
        """With the update that belongs to ``step``, if one does, the density is the last one."""
        return self.ramp.done(step // self.interval)

    @abstractmethod
    def select(self, density: Fraction, access: WeightAccess, masks: Masks, agreement: Agreement) -> dict[str, Tensor]:
        """The masks at a density. Collective."""

    @abstractmethod
    def densities_at(self, density: Fraction, shapes: Shapes, before: Densities) -> Densities:
        """The density of each layer at an overall density, coming down from those ``before``."""


@dataclass(frozen=True, kw_only=True)
class GlobalPruner(Pruner):
    """The units of largest magnitude of all layers together stay, exactly ``round(density * weights)`` weights.

    Units of several weights compare by their root mean square, and are kept while they fit.
    """

    def select(self, density: Fraction, access: WeightAccess, masks: Masks, agreement: Agreement) -> Mapping[str, Tensor]:
        """The new masks of all layers, from one threshold over the whole network. Collective."""
        keep = share_of(density, sum(access.weight(name).numel() for name in masks.names))
        return best_of_all_layers(
            lambda name: scores.magnitude(access.weight(name)), keep, self.structure, access, masks, agreement
        )

    def densities_at(self, density: Fraction, shapes: Shapes, before: Densities) -> Densities:
        return erdos_renyi(shapes, float(density))  # a guess: the weights of then decide


@dataclass(frozen=True, kw_only=True)
class UniformPruner(Pruner):
    """The units of largest magnitude of each selection set stay: the same density for all layers.

    The classifier keeps a density of 0.2 once the others fall below that (Gale et al., 2019, arXiv 1902.09574), and the
    others make up for it. So they do for layers that hold less than the common density already, as many do after a sparse
    start: pruning adds nothing to a layer, and the density of all together is met nevertheless.
    """

    shapes: Mapping[str, Size]
    classifier: str | None

    def densities(self, density: Fraction, held: Mapping[str, Fraction] | None = None) -> dict[str, Fraction]:
        """The density of each layer at an overall density, where some have what is ``held``."""
        fixed = dict(held or {})
        common, kept = self._common(density, fixed), Fraction(1, 5)
        if self.classifier is not None and self.classifier not in fixed and common < kept:
            fixed[self.classifier] = kept
            common = self._common(density, fixed)
        return {name: fixed.get(name, common) for name in self.shapes}

    def _common(self, density: Fraction, fixed: Mapping[str, Fraction]) -> Fraction:
        """What is left for each layer that is not ``fixed``."""
        sizes = {name: shape.numel() for name, shape in self.shapes.items()}
        free = sum(size for name, size in sizes.items() if name not in fixed)
        left = density * sum(sizes.values()) - sum(each * sizes[name] for name, each in fixed.items())
        return left / free if free else Fraction(0)

    def units(self, density: Fraction, active: Mapping[str, int]) -> dict[str, int]:
        """Units of a selection set that each layer keeps at an overall density, out of those of its ``active`` weights."""
        counts = {name: self.structure.counts(shape) for name, shape in self.shapes.items()}
        present = {name: active[name] // (sets * size) for name, (sets, _, size) in counts.items()}
        held: dict[str, Fraction] = {}
        while True:
            densities = self.densities(density, held)
            wanted = {name: share_of(each / self.structure.capacity, counts[name][1]) for name, each in densities.items()}
            short = [name for name in wanted if wanted[name] > present[name] and name not in held]
            if not short:
                return {name: min(wanted[name], present[name]) for name in wanted}
            held |= {name: Fraction(active[name], self.shapes[name].numel()) for name in short}

    def select(self, density: Fraction, access: WeightAccess, masks: Masks, agreement: Agreement) -> Mapping[str, Tensor]:
        units = self.units(density, masks.active())
        return agreement.decide(lambda name: self._select(access.weight(name), masks[name], units[name]))

    def densities_at(self, density: Fraction, shapes: Shapes, before: Densities) -> Densities:
        sizes = {name: shape.numel() for name, shape in shapes.items()}
        densities = {}
        for name, units in self.units(density, {name: round(before[name] * size) for name, size in sizes.items()}).items():
            sets, _, size = self.structure.counts(shapes[name])
            densities[name] = sets * units * size / sizes[name]
        return densities

    def _select(self, weight: Tensor, mask: Tensor, units: int) -> Tensor:
        active = self.structure.active(mask)
        score = self.structure.score(scores.magnitude(weight))
        kept = top_k(score, active.sum(1).cpu().clamp(max=units), among=active)
        return self.structure.mask(kept, weight.shape, before=mask)


def best_of_all_layers(
    weight_score: Callable[[str], Tensor],
    keep: int,
    structure: Structure,
    access: WeightAccess,
    masks: Masks,
    agreement: Agreement,
) -> Mapping[str, Tensor]:
    """The masks of the active units of all layers that score best and hold ``keep`` weights together. Collective.

    ``weight_score`` gives the weight-shaped score of a layer that this rank owns.
    """
    weights = {name: access.weight(name) for name in masks.names}
    score = {name: structure.score(weight_score(name)) for name in agreement.owned()}
    among = {name: structure.active(masks[name]) for name in score}
    chosen = best_units_of_all_layers(score, among, keep, structure, weights, agreement)
    best = agreement.decide(lambda name: structure.mask(chosen[name], weights[name].shape, before=masks[name]))
    if empty := [name for name, mask in best.items() if not mask.any()]:
        _log.warning("pruning has emptied %s", ", ".join(empty))
    return best


def best_units_of_all_layers(
    score: Mapping[str, Tensor],
    among: Mapping[str, Tensor],
    keep: int,
    structure: Structure,
    weights: Mapping[str, Tensor],
    agreement: Agreement,
) -> dict[str, Tensor]:
    """Which candidates [S, U] of this rank's layers are among the best that hold ``keep`` weights together. Collective.

    ``score`` and ``among`` are of this rank's layers, ``weights`` of all.
    """
    some = next(iter(weights.values()))
    sizes = {name: structure.counts(weight.shape)[2] for name, weight in weights.items()}
    return global_top_k(
        {name: each / sizes[name] ** 0.5 for name, each in score.items()},
        among,
        keep,
        layers=list(weights),
        sizes=sizes,
        dtype=torch.promote_types(torch.float32, some.dtype),
        device=some.device,
        total=agreement.total,
    )


def refusal_of_global_pruning(structure: Structure) -> str | None:
    """Why a structure cannot be pruned over all layers together, or None if it can."""
    return (
        None
        if structure.layer_wide
        else "it prunes all layers together, whatever is then left in a set; its `_uniform` form counts"
    )


def classifier_to_spare(classifier: str, shapes: Mapping[str, Size], density: float) -> str | None:
    """The classifier if it is masked, not alone, and leaves something for the other layers at the final density."""
    total = sum(shape.numel() for shape in shapes.values())
    if classifier not in shapes or len(shapes) == 1:
        return None
    if Fraction(str(density)) * total <= Fraction(1, 5) * shapes[classifier].numel():
        _log.warning("%s gets no density of its own: a fifth of it is more than all layers together may keep", classifier)
        return None
    return classifier
