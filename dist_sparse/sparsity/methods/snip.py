"""SNIP: initial masks by connection sensitivity.

N. Lee, T. Ajanthan, P. H. S. Torr: "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, arXiv
1810.02340.

With dense weights w at initialisation and the gradient g of the loss of one batch::

    s = |w g|;  mask = the round(d N) weights of largest s of the whole network

The batch is that of the first optimizer step, over all ranks and micro-batches; its gradient chooses the masks instead of
moving the weights, as RigL's updates do. If it overflowed the next good step chooses. Units of several weights compare by
the root mean square of s, and are kept while they fit. Where a structure fixes how many units a selection set keeps (N:M,
fan-in, kernels per filter, patterns), the best of each set stay, at the densities of the distribution.

Deviation from the paper: none in the score (dividing by the sum of all changes no order); its networks are initialised by
variance scaling, here by whatever the model does.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``), with 95 % intervals: not above random masks
of Erdos-Renyi densities, -0.30 ± 1.17 points at density 0.02 and +1.34 ± 5.02 at 0.005.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.distributions import Densities, Shapes, erdos_renyi
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.fit import check_units_of_all_layers
from dist_sparse.sparsity.methods.forecast import LIKE_ERK, Forecast, MaskUpdate, NetworkForecast
from dist_sparse.sparsity.methods.initial import best_units
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.pruning.pruners import best_of_all_layers
from dist_sparse.sparsity.structures import Structure, parse_structure


@dataclass(frozen=True, kw_only=True)
class Snip:
    """What is to be chosen: ``keep`` weights of all layers together, or ``units`` in each selection set of each layer."""

    structure: Structure
    keep: int
    units: Mapping[str, int]

    def choose(self, access: WeightAccess, masks: Masks, agreement: Agreement) -> Mapping[str, Tensor]:
        """The masks, from weights and gradients that are still dense. Collective."""

        def sensitivity(name: str) -> Tensor:
            return scores.magnitude(access.weight(name).detach() * access.grad(name))

        if self.structure.layer_wide:
            return best_of_all_layers(sensitivity, self.keep, self.structure, access, masks, agreement)
        return agreement.decide(lambda name: best_units(sensitivity(name), self.units[name], self.structure))

    def densities(self, shapes: Shapes) -> Densities:
        """The density of each layer, at a guess where all are compared."""
        if self.structure.layer_wide:
            return erdos_renyi(shapes, self.keep / sum(shape.numel() for shape in shapes.values()))
        counts = {name: self.structure.counts(shape) for name, shape in shapes.items()}
        return {name: sets * self.units[name] * size / shapes[name].numel() for name, (sets, _, size) in counts.items()}


def chooses_over_all_layers(config: SparsityConfig) -> bool:
    """The masks are chosen over all layers together, so that no distribution acts."""
    return config.init == "snip" and parse_structure(config.structure).layer_wide


@dataclass(frozen=True, kw_only=True)
class SnipPlan(Plan):
    """Dense masks until the first gradient, and what that is to choose."""

    snip: Snip

    @classmethod
    def of(cls, method: type[Method], context: Context) -> "SnipPlan":
        """The plan at the configured density.

        Raises:
            UserError: the structure does not fit, or the density leaves nothing.
        """
        structure, shapes = context.structure, context.shapes
        keep, units = 0, {}
        if structure.layer_wide:
            context.all_units()  # checks that the structure fits
            keep = check_units_of_all_layers(context.config, structure, shapes)
        else:
            units = context.units()
        return cls(
            method=method,
            context=context,
            initial_mask=lambda name: torch.ones(shapes[name], dtype=torch.bool, device=context.run.device),
            active={name: shape.numel() for name, shape in shapes.items()},
            snip=Snip(structure=structure, keep=keep, units=units),
        )

    @property
    def settled_after(self) -> int | None:
        return 0  # it begins dense, and chooses once

    def forecast(self, made: Sequence[int]) -> Forecast:
        """SNIP chooses in the first step, in place of the optimizer's, and trains from the second on."""
        update = MaskUpdate(index=0, from_index=1, densities=self.snip.densities(self.context.shapes))
        return Forecast(
            networks=[NetworkForecast(initial=self.initial_densities, updates=[update])],
            replaced_steps=[0],
            estimate=LIKE_ERK if self.snip.structure.layer_wide else "",
        )
