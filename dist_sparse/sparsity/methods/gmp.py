"""GMP: gradual magnitude pruning.

M. Zhu, S. Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017, arXiv
1710.01878; T. Gale, E. Elsen, S. Hooker: "The State of Sparsity in Deep Neural Networks", 2019, arXiv 1902.09574; over all
layers together as in the GraNet repository.

From dense weights. Every ``interval`` steps t, after the optimizer's step, from ``ramp.start`` to ``ramp.end``::

    i = t / interval;  i0, i1 = floor(start / interval), floor(end / interval)
    d(i) = d_f + (1 - d_f) (1 - (i - i0) / (i1 - i0))^3
    gmp:          the round(d N) weights of largest |w| of the whole network stay
    gmp_uniform:  round(d_l N_l) of each layer stay; all d_l = d, but the classifier keeps 0.2 once d < 0.2

What is pruned is 0 and stays so. Defaults: the whole update interval of 1,000 steps and ``end`` 50 % of the run (CIFAR in
the GraNet repository: 80 of 160 epochs).

Deviations from the references: the update at i1 is made (GraNet's global code stops one before and ends 1e-3 above the density
after ten updates); counts are whole numbers from exact fractions (int(N (1 - s)) in floating point loses one); equal weights
are kept in the order of layers and indices, so that exactly as many stay as planned; momentum is masked. Where a fifth of the
classifier is more than all that may stay, it shares the common density.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.initial import initial_masks
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.pruning.pruners import refusal_of_global_pruning
from dist_sparse.sparsity.methods.pruning.ramp import PruningPlan, Window, build_pruner, initial_density, with_ramp
from dist_sparse.sparsity.methods.updating import Updating
from dist_sparse.sparsity.structures import Structure

RAMP: dict[str, Any] = {"initial_density": 1.0, "start": Length(0, "steps"), "end": Length(0.5, "run")}


@dataclass(frozen=True, kw_only=True)
class GmpPlan(PruningPlan):
    """Masks that only come down."""

    @property
    def settled_after(self) -> int | None:
        return 0


class Gmp(Updating):
    """Prune the smallest weights of the whole network."""

    name = "gmp"
    uses = frozenset({"density", "keep_dense", "structure", "update.interval", "ramp.start", "ramp.end", "init"})
    inits = frozenset({"checkpoint"})
    keeps_density = False
    prunes_globally: ClassVar[bool] = True

    def __init__(self, plan: PruningPlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._pruner = plan.pruner

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        if structure.capacity < 1:
            return (
                f"it begins with dense layers, and those of this structure hold {structure.capacity} of their weights at most"
            )
        return refusal_of_global_pruning(structure) if cls.prunes_globally else None

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return fill(config, update={"interval": Length(1000, "steps")}, ramp={key: RAMP[key] for key in ("start", "end")})

    @classmethod
    def plan(cls, context: Context) -> Plan:
        units = context.initial_units() if context.carried else context.all_units()
        initial, window = initial_density(context) if context.carried else 1.0, Window.of(context)
        pruner = build_pruner(context, window, initial, globally=cls.prunes_globally)
        return GmpPlan(
            method=cls,
            context=context,
            initial_mask=initial_masks(cls, context, units),
            active=context.active(units),
            schedule=with_ramp(None, pruner, window),
            pruner=pruner,
        )

    def update(self, step: int, regular: int) -> None:
        pruned = self._pruner.prune(regular, self._previous_step, self.access, self.masks, self.agreement)
        assert pruned is not None, "the schedule ends with the ramp"
        self.replace_masks(pruned)

    def at_final_density(self) -> bool:
        return self._pruner.done(self._last_step)


class GmpUniform(Gmp):
    """Prune the smallest weights of each layer."""

    name = "gmp_uniform"
    prunes_globally = False
