"""How one sub-net of AST comes down from dense, and how its layers regenerate: weight by weight, or in groups of N:M."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.distributions import Densities, Shapes, erdos_renyi
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.drop_grow.removal import removal
from dist_sparse.sparsity.methods.initial import best_units
from dist_sparse.sparsity.methods.pruning.pruners import best_units_of_all_layers
from dist_sparse.sparsity.schedules import CubicRamp, drop_count, share_of
from dist_sparse.sparsity.selection import drop_and_grow, top_k
from dist_sparse.sparsity.structures import NM, Unstructured


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What an update prunes."""

    weights: Mapping[str, Tensor]
    """Dense."""
    masks: Masks
    """The sub-net's, before."""
    candidates: Masks | None
    """Which weights may be active: those that some sub-net has, or all."""
    agreement: Agreement


@dataclass(frozen=True, kw_only=True)
class SubNetPruner(ABC):
    """The density of one sub-net, down the ramp and after it."""

    ramp: CubicRamp

    @abstractmethod
    def prune(self, number: int, step: int, layers: Layers) -> dict[str, Tensor]:
        """The masks after update ``number`` of the ramp, before layers regenerate. Collective."""

    @abstractmethod
    def densities(self, number: int, shapes: Shapes) -> Densities:
        """The density of each layer after update ``number`` of the ramp."""

    @abstractmethod
    def regrow(self, weight: Tensor, mask: Tensor, gradient: Tensor, fraction: float) -> Tensor:
        """A layer's mask after it has dropped the least important fraction, and grown as much by its dense gradient."""


@dataclass(frozen=True, kw_only=True)
class DensityPruner(SubNetPruner):
    """The largest weights of the whole network; the ramp is of the density."""

    def prune(self, number: int, step: int, layers: Layers) -> Mapping[str, Tensor]:
        """Exactly ``round(density * weights)`` stay, and of each layer at least its largest."""
        weights, agreement = layers.weights, layers.agreement
        structure = Unstructured()  # lays out any memory format by index
        magnitudes = {name: structure.score(scores.magnitude(weights[name])) for name in agreement.owned()}
        among = {name: torch.ones_like(each, dtype=torch.bool) for name, each in magnitudes.items()}
        if layers.candidates is not None:
            among = {name: structure.active(layers.candidates[name]).clone() for name in magnitudes}
        largest = {name: int(torch.where(among[name], each, -1).argmax()) for name, each in magnitudes.items()}
        for name, place in largest.items():
            among[name][0, place] = False
        keep = share_of(self.ramp(number), sum(weight.numel() for weight in weights.values())) - len(weights)
        chosen = best_units_of_all_layers(magnitudes, among, keep, structure, weights, agreement)
        for name, place in largest.items():
            chosen[name][0, place] = True
        return agreement.decide(lambda name: structure.mask(chosen[name], weights[name].shape))

    def densities(self, number: int, shapes: Shapes) -> Densities:
        return erdos_renyi(shapes, float(self.ramp(number)))  # a guess: the weights of then decide

    def regrow(self, weight: Tensor, mask: Tensor, gradient: Tensor, fraction: float) -> Tensor:
        """ceil(fraction * active) weights: the smallest go, those of largest gradient come."""
        structure = Unstructured()
        active = structure.active(mask)
        kept = removal("magnitude", structure, weight, active, fraction, round_up=True)
        units = drop_and_grow(active, kept, structure.score(scores.magnitude(gradient)))
        return structure.mask(units, weight.shape)


@dataclass(frozen=True, kw_only=True)
class GroupPruner(SubNetPruner):
    """Groups of m weights, of which n are kept or, of a share that falls to 0 along the ramp, all."""

    structure: NM
    seed: int

    def prune(self, number: int, step: int, layers: Layers) -> Mapping[str, Tensor]:
        """Which dense groups stay so is drawn in each layer."""

        def select(name: str) -> Tensor:
            dense = self._dense(layers.masks[name])
            keep = min(share_of(self.ramp(number), dense.numel()), int(dense.count_nonzero()))
            draw = scores.random((1, dense.numel()), generator("dense groups", self.seed, self.structure.n, step, name))
            kept = top_k(draw.to(dense.device), torch.tensor([keep]), among=dense)
            return self._mask(layers.weights[name], kept)

        return layers.agreement.decide(select)

    def densities(self, number: int, shapes: Shapes) -> Densities:
        n, m = self.structure.n, self.structure.m
        groups = {name: shape.numel() // m for name, shape in shapes.items()}
        dense = {name: share_of(self.ramp(number), count) for name, count in groups.items()}
        return {name: (n * count + (m - n) * dense[name]) / (m * count) for name, count in groups.items()}

    def regrow(self, weight: Tensor, mask: Tensor, gradient: Tensor, fraction: float) -> Tensor:
        """floor(fraction * dense groups) of them: those of smallest sum |w| go, those of largest sum |gradient| come."""
        dense = self._dense(mask)
        count = int(dense.count_nonzero())
        stay = count - drop_count(fraction, count, up=False)
        kept = top_k(self._sums(weight), torch.tensor([stay]), among=dense)
        return self._mask(weight, drop_and_grow(dense, kept, self._sums(gradient)))

    def _dense(self, mask: Tensor) -> Tensor:
        """Which groups are dense: bool [1, groups]."""
        return self.structure.active(mask).all(1)[None]

    def _sums(self, tensor: Tensor) -> Tensor:
        return self.structure.score(scores.magnitude(tensor)).sum(1)[None]

    def _mask(self, weight: Tensor, dense: Tensor) -> Tensor:
        whole = self.structure.mask(dense.view(-1, 1).expand(-1, self.structure.m), weight.shape)
        return best_units(scores.magnitude(weight), self.structure.n, self.structure) | whole
