"""From a resolved sparsity section to a method with its masks: first the plan, which each rank makes alone, then the method."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.carried import Carried
from dist_sparse.sparsity.methods.context import Context, RunFacts
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.structures import parse_structure


def plan_method(config: SparsityConfig, weights: Mapping[str, Tensor], run: RunFacts, carried: Carried | None = None) -> Plan:
    """Plan a resolved configuration for a model's sparse layers, whose first masks may be ``carried`` over.

    Raises:
        UserError: a density that cannot be reached, a structure that does not fit, or an impossible schedule.
    """
    method = METHODS[config.method]
    masked = weights if "keep_dense" in method.uses else {}
    structure = parse_structure(config.structure)
    return method.plan(Context(config=config, run=run, structure=structure, weights=masked, carried=carried))


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A plan with the masks that it begins with."""

    plan: Plan
    agreement: Agreement
    masks: Masks

    def bind(self, access: WeightAccess, *, remask: bool) -> Method:
        """The planned method, on an engine's weights."""
        return self.plan.method(self.plan, access=access, masks=self.masks, agreement=self.agreement, remask=remask)


def begin(plan: Plan) -> Begun:
    """Choose the initial masks, from weights that no engine has taken apart yet. Collective."""
    run, shapes = plan.context.run, plan.context.shapes
    agreement = Agreement(shapes, rank=run.rank, world_size=run.world_size, device=run.device)
    masks = Masks(plan.context.weights)
    masks.replace(agreement.decide(plan.initial_mask) if shapes else {})
    return Begun(plan=plan, agreement=agreement, masks=masks)
