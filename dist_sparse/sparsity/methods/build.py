"""From a resolved sparsity section to a method with its masks: first the plan, which each rank makes alone, then the method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.method import Method, WeightAccess
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.course import Course, Foresees, resting
from dist_sparse.sparsity.methods.setting import Plan, Plans, RunFacts, Setting
from dist_sparse.sparsity.structures import parse_structure


def plan_method(config: SparsityConfig, weights: Mapping[str, Tensor], run: RunFacts) -> Plan:
    """Plan a resolved configuration for a model's sparse layers.

    Raises:
        UserError: a density that cannot be reached, a structure that does not fit, or an impossible schedule.
    """
    method = METHODS[config.method]
    masked = weights if "keep_dense" in method.uses else {}
    setting = Setting(config=config, run=run, structure=parse_structure(config.structure), weights=masked)
    if issubclass(method, Plans):
        return method.plan(setting)
    units = setting.units() if masked else {}
    return Plan(setting=setting, initial_mask=setting.random_masks(units), active=setting.active(units))


def foresee(plan: Plan, made: Sequence[int]) -> Course:
    """What the planned masks will do in a run that makes the steps of these numbers (1 is the first)."""
    method = METHODS[plan.setting.config.method]
    return method.foresee(plan, made) if issubclass(method, Foresees) else resting(plan)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """A plan with the masks that it begins with."""

    plan: Plan
    agreement: Agreement
    masks: Masks


def begin(plan: Plan) -> Begun:
    """Choose the initial masks, from weights that no engine has taken apart yet. Collective."""
    run, shapes = plan.setting.run, plan.setting.shapes
    agreement = Agreement(shapes, rank=run.rank, world_size=run.world_size, device=run.device)
    masks = Masks(plan.setting.weights)
    masks.replace(agreement.decide(plan.initial_mask) if shapes else {})
    return Begun(plan=plan, agreement=agreement, masks=masks)


def build_method(begun: Begun, access: WeightAccess, *, remask: bool) -> Method:
    """The planned method with its initial masks."""
    cls = METHODS[begun.plan.setting.config.method]
    return cls(access=access, masks=begun.masks, agreement=begun.agreement, remask=remask, **begun.plan.options)
