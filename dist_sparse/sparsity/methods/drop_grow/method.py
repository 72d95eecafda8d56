"""Dynamic sparse training by dropping and growing: what SET, RigL, SNFS and GraNet share, in both published forms."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.entries import Entries
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.drop_grow.entrywise import grow_by_magnitude, kept_by_magnitude
from dist_sparse.sparsity.methods.drop_grow.gradients import DenseGradients
from dist_sparse.sparsity.methods.drop_grow.plan import DEFAULTS, DropAndGrowPlan, Form, Growth
from dist_sparse.sparsity.methods.drop_grow.redistribution import (
    Redistribution,
    apportion,
    capacities,
    drop_fraction,
    importance,
    shares_of,
)
from dist_sparse.sparsity.methods.drop_grow.removal import removal
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.updating import Updating
from dist_sparse.sparsity.schedules import drop_count
from dist_sparse.sparsity.selection import at_least_top_k, drop_and_grow
from dist_sparse.sparsity.structures import Unstructured
from dist_sparse.sparsity.tensors import count_true, is_finite


class DropAndGrow(Updating):
    """Every layer drops its smallest active weights and grows as many others; a subclass says which grow by default.

    The two forms differ in their place in the step and in rounding:

    ========  ==============================  ===================  =========================================
    form      update                          units dropped        published in
    ========  ==============================  ===================  =========================================
    original  replaces the optimizer step     floor(f * active)    Evci et al., RigL, ICML 2020, 1911.11134
    itop      after the optimizer step        ceil(f * active)     Liu et al., ITOP, ICML 2021, 2102.02887
    ========  ==============================  ===================  =========================================

    Under a structure "weight" reads "unit", and units of several weights are rounded down in both forms: rounded up, the itop
    form would exchange one filter of six to the end of the run. The fraction is of the layer's active units, and the layer's
    worst are dropped; where units compete within smaller sets, each set grows as many as it lost. Where a unit holds some of
    its weights only, a grown one takes the best of them by the score that grew it, or at random where growth is, and one that
    stays, or is dropped and grown again at once, has those that it had.

    A weight that is dropped and grown again in the same update keeps its value and momentum; a newly grown one starts with
    both at 0. What is dropped: :mod:`.removal`. What grows: the largest dense gradients; those of largest average gradient
    (``momentum``; the optimizer's own momentum is 0 where a weight is inactive, so an average over steps of the dense
    gradients, with factor 0.9, is kept beside it); any (``random``); or weights that were never active before any others
    (``random_unfired``).
    """

    uses = (
        Method.uses
        | {
            f"update.{key}"
            for key in (
                "form",
                "gradient_steps",
                "growth",
                "removal",
                "removal_threshold",
                "redistribution",
                *DEFAULTS["original"],
            )
        }
        | {"init"}
    )
    inits = frozenset({"random", "magnitude", "checkpoint"})
    default_growth: ClassVar[Growth]
    default_redistribution: ClassVar[Redistribution] = "none"
    only_form: ClassVar[Form | None] = None
    """The form of a method that has no other."""

    def __init__(self, plan: DropAndGrowPlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._plan, self._seed = plan, plan.context.run.seed
        self._gradients = DenseGradients(self.access, self.agreement)

    @classmethod
    def form(cls, config: SparsityConfig) -> Form:
        """The form of the method's updates."""
        return cls.only_form or config.update.form

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        own = {"growth": cls.default_growth, "redistribution": cls.default_redistribution}
        return fill(config, update={**DEFAULTS[cls.form(config)], **own})

    @classmethod
    def plan(cls, context: Context) -> Plan:
        return DropAndGrowPlan.of(cls, context, form=cls.form(context.config))

    @property
    def replaces_step(self) -> bool:
        return self._plan.form == "original"

    def update(self, step: int, regular: int) -> None:
        fraction = self._schedule.drop(regular)
        if self._plan.redistribution == "none":
            masks = self.agreement.decide(lambda name: self._select(name, step, self._kept(name, fraction)))
        else:
            kept, grown = self._redistributed(fraction)
            masks = self.agreement.decide(lambda name: self._select(name, step, kept[name], torch.tensor([grown[name]])))
        self.replace_masks(masks)
        self._gradients.forget_sums()

    def _redistributed(self, fraction: float) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Where layers share: what stays of this rank's layers, and how many weights each layer grows. Collective."""
        names, owned, active = self.masks.names, self.agreement.owned(), self.masks.active()
        kind, averages = self._plan.redistribution, self._gradients.averages
        importances = {name: importance(kind, self.masks[name], self.access.weight(name), averages.get(name)) for name in owned}
        shares = shares_of(self._of_all_layers(importances))
        density = self.masks.densities()
        fractions = {name: drop_fraction(fraction, density[name], shares[name], len(names)) for name in names}
        kept = {name: self._kept(name, fractions[name]) for name in owned}
        dropped = self._of_all_layers({name: active[name] - int(kept[name].sum()) for name in owned})
        total = int(sum(dropped.values()))
        units = {name: self.access.weight(name).numel() for name in names}
        capacity = capacities(units, {name: active[name] - int(dropped[name]) for name in names}, total)
        return kept, apportion(total, shares, capacity)

    def _of_all_layers(self, values: Mapping[str, float]) -> dict[str, float]:
        """A number of each layer, of which this rank knows its own layers'. Collective."""
        names = self.masks.names
        known = [values.get(name, 0.0) for name in names]
        numbers = torch.tensor(known, dtype=torch.float64, device=self.access.weight(names[0]).device)
        return dict(zip(names, self.agreement.total(numbers).tolist(), strict=True))

    def grow_score(self, name: str, step: int) -> Tensor:
        """Non-negative score [S, U] of every unit of a layer; the inactive units that score most grow."""
        if self._plan.growth in ("gradient", "momentum"):
            return self._structure.score(scores.magnitude(self._growth_gradient(name)))
        weight = self.access.weight(name)
        sets, units, _ = self._structure.counts(weight.shape)
        score = scores.random((sets, units), generator("grow", self._seed, step, name)).to(weight.device)
        if self._plan.growth == "random_unfired":
            score = score + ~self._structure.active(self.masks.explored(name))
        return score

    def _growth_gradient(self, name: str) -> Tensor:
        gradient = self._gradients.averages[name] if self._plan.growth == "momentum" else self._gradients.sum_of(name)
        assert gradient is not None, "collected for the update"
        return gradient

    def _select(self, name: str, step: int, kept: Tensor, grow: Tensor | None = None) -> Tensor:
        """The new mask of one layer, which grows as many units as it drops or, where layers share, ``grow``."""
        active = self._structure.active(self.masks[name])
        units = self._grown_by_entries(name, active, kept) if grow is None else None
        if units is None:
            units = drop_and_grow(active, kept, self.grow_score(name, step), grow)
        return self._structure.mask(units, self.masks.shape(name), before=self.masks[name], choose_by=self._choice(name, step))

    def _grown_by_entries(self, name: str, active: Tensor, kept: Tensor) -> Tensor | None:
        """The same of single weights by a gradient of which entries are held; None if it takes more."""
        gradient = self._gradients.held(name) if self._plan.growth == "gradient" else None
        if not isinstance(gradient, Entries) or not isinstance(self._structure, Unstructured):
            return None
        return grow_by_magnitude(active, kept, gradient)

    def _choice(self, name: str, step: int) -> Tensor | None:
        """By what newly grown units choose their weights, where the structure leaves them a choice: as growth chooses units."""
        if not self._structure.chooses:
            return None
        if self._plan.growth in ("gradient", "momentum"):
            return scores.magnitude(self._growth_gradient(name))
        return self._structure.random_choice(self.access.weight(name).shape, generator("choose", self._seed, step, name))

    def _kept(self, name: str, fraction: float) -> Tensor:
        """Which active units of one layer are not dropped."""
        held = self.access.held_weight(name) if self._plan.removal == "magnitude" else None
        if isinstance(held, Entries) and isinstance(self._structure, Unstructured):
            return kept_by_magnitude(held, fraction, round_up=self._rounds_up(name))
        return removal(
            self._plan.removal,
            self._structure,
            self.access.weight(name),
            self._structure.active(self.masks[name]),
            fraction,
            round_up=self._rounds_up(name),
            threshold=self._plan.removal_threshold,
            gradient=self._gradients.sum_of(name) if self._plan.removal == "taylor" else None,
        )

    def _rounds_up(self, name: str) -> bool:
        return self._plan.form == "itop" and self._structure.counts(self.masks.shape(name))[2] == 1

    def gradient_masks(self, step: int) -> Masks | None:
        grows_by_it = self._plan.growth == "gradient" and self._counts(step)
        return None if grows_by_it or self._plan.needs_average else self.masks

    def wanted_gradients(self, step: int) -> Wanted | None:
        due = self._schedule.due_step(self._last_step, step)
        if due is None or not self._plan.wants_few_gradients:
            return None
        fraction = self._schedule.drop(due)
        return lambda name, gradient: self._may_grow(name, gradient, fraction)

    def _may_grow(self, name: str, gradient: Tensor, fraction: float) -> Tensor:
        """The active weights, any of which may be dropped and grow again, and of the others as many as may be dropped.

        All of a gradient that is not finite, for whoever looks for that.
        """
        if not is_finite(gradient):
            return torch.ones_like(gradient, dtype=torch.bool)
        active = self._structure.active(self.masks[name])
        dropped = drop_count(fraction, count_true(active), up=self._rounds_up(name))
        score = self._structure.score(scores.magnitude(gradient))
        return self._structure.weights_of(active | at_least_top_k(score, dropped, among=~active), gradient.shape)

    def collect(self, step: int) -> None:
        if self._plan.needs_gradient and self._counts(step):
            self._gradients.add()
        if self._plan.needs_average:
            self._gradients.average()

    def chooses(self, step: int) -> bool:
        return super().chooses(step) or (self._plan.needs_gradient and self._counts(step))

    def inputs_of(self, layers: Sequence[str]) -> list[Tensor]:
        return self._gradients.gathered_of(layers)

    def postpone(self) -> None:
        super().postpone()
        self._gradients.forget_sums()

    def _counts(self, step: int) -> bool:
        """This step's gradient scores the update of this step or of the next."""
        distance = self._schedule.until_next(step)
        due = self._schedule.due_step(self._last_step, step) is not None
        return due or (distance is not None and 0 < distance < self._plan.gradient_steps)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self._gradients.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._gradients.load_state_dict(state)
