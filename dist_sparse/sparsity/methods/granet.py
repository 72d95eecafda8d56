"""GraNet: gradual pruning with zero-cost neuroregeneration.

S. Liu, T. Chen, X. Chen, Z. Atashgahi, L. Yin, H. Kou, L. Shen, M. Pechenizkiy, Z. Wang, D. C. Mocanu: "Sparse Training via
Boosting Pruning Plasticity with Neuroregeneration", NeurIPS 2021, arXiv 2106.10404.

From ``ramp.initial_density`` (1: dense to sparse, 0.5: sparse to sparse). Every ``interval`` steps from ``ramp.start`` on,
after the optimizer's step::

    1. up to ramp.end, prune as GMP does (:mod:`dist_sparse.sparsity.methods.gmp`): granet over the whole network,
       granet_uniform in each layer; layers that begin (after a sparse start) below the common density stay as dense as they
       are, and the others make up for them
    2. to the end, regenerate as RigL-ITOP does (:mod:`dist_sparse.sparsity.methods.rigl`): per layer drop ceil(p n) of the n
       weights that are left, grow as many where the gradient is largest

Defaults: p from 0.5 to 0.005 along a cosine, interval 1,000, ramp over the first half of the run (CIFAR: 80 of 160 epochs, at
densities 0.1, 0.05 and 0.02; ImageNet: interval 4,000, 30 of 100 epochs).

Deviations from the reference are those of GMP and of RigL here: the density arrives exactly, all counts are exact with ties
and zeros, every rank holds the same masks, and growth, removal and the momentum's mask act as configured. The initial density
is a density: the reference's ImageNet command passes 0.0 for a dense start and so masks everything.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``), with 95 % intervals: -0.14 ± 0.19 points to
GMP at density 0.02 and +0.12 ± 0.41 at 0.005, so that regrowth brings nothing which these runs show; the paper reports gains
on CIFAR and ImageNet.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow
from dist_sparse.sparsity.methods.drop_grow.plan import DropAndGrowPlan
from dist_sparse.sparsity.methods.forecast import Forecast
from dist_sparse.sparsity.methods.gmp import RAMP
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.pruning.pruners import refusal_of_global_pruning
from dist_sparse.sparsity.methods.pruning.ramp import PruningPlan, Window, build_pruner, initial_density, with_ramp
from dist_sparse.sparsity.structures import Structure


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraNetPlan(DropAndGrowPlan, PruningPlan):
    """Masks that come down a ramp, and drop and grow on the way and after it."""

    @property
    def keeps_counts(self) -> bool:
        return False

    def forecast(self, made: Sequence[int]) -> Forecast:
        """Densities are those of pruning; what regrowth needs is that of dropping and growing."""
        pruned, regrown = PruningPlan.forecast(self, made), DropAndGrowPlan.forecast(self, made)
        return dataclasses.replace(regrown, networks=pruned.networks, estimate=pruned.estimate or regrown.estimate)


class GraNet(DropAndGrow):
    """Prune the whole network, then let every layer drop and grow."""

    name = "granet"
    uses = DropAndGrow.uses - {"update.form", "table"} | {"ramp.initial_density", "ramp.start", "ramp.end"}
    default_growth = "gradient"
    only_form = "itop"
    keeps_density = False
    prunes_globally: ClassVar[bool] = True

    def __init__(self, plan: GraNetPlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._pruner = plan.pruner

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return refusal_of_global_pruning(structure) if cls.prunes_globally else None

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return super().complete(fill(config, update={}, ramp=RAMP))

    @classmethod
    def plan(cls, context: Context) -> Plan:
        initial = initial_density(context)
        base, window = DropAndGrowPlan.of(cls, context, form="itop", density=initial), Window.of(context)
        pruner = build_pruner(context, window, initial, globally=cls.prunes_globally)
        return GraNetPlan(**{**vars(base), "schedule": with_ramp(base.schedule, pruner, window)}, pruner=pruner)

    def update(self, step: int, regular: int) -> None:
        with self.one_update():
            pruned = self._pruner.prune(regular, self._previous_step, self.access, self.masks, self.agreement)
            if pruned is not None:
                self.replace_masks(pruned)  # before growth, so that what is pruned and grown again starts from 0
            super().update(step, regular)

    def at_final_density(self) -> bool:
        return self._pruner.done(self._last_step)


class GraNetUniform(GraNet):
    """Prune every layer to the common density, then let it drop and grow."""

    name = "granet_uniform"
    prunes_globally = False
