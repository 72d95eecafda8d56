"""MEST: elastic mutation (EM), and with a soft memory bound (EM&S).

G. Yuan, X. Ma, W. Niu, Z. Li, Z. Kong, N. Liu, Y. Gong, Z. Zhan, C. He, Q. Jin, S. Wang, M. Qin, B. Ren, Y. Wang, S. Liu, X.
Lin: "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge", NeurIPS 2021, arXiv 2110.14032.

Before the first step and then every ``interval``, per layer with U units, in phase i (the decays that are over)::

    score = |w| + lambda |g|                       g: the averaged, masked gradient of the last good step
    kept  = the round(keep_i U) active units of largest score
    grown = round(grow_to_i U) - len(kept) units, uniformly at random from all that are not kept, those just removed too
    mask  = kept + grown;  all grown weights and their momentum are 0

EM keeps less than the density and grows back to it (memory never exceeds the target); EM&S keeps the density and grows above
it. In the last phase both bounds are the density, nothing is removed or grown any more, and the masks rest. With such bounds
from the start the masks never move at all. The initial mask holds the largest |w| of the dense initialisation. Under
structure ``pattern`` (the reference's ``pattern+filter_balance``) a kernel that grows gets one of the 8 patterns at random,
whether it was removed just before or not.

``sparsity.mest`` takes densities, the reference's command takes sparsities: ``--lower-bound 0.92-0.91-0.90`` is ``keep:
[0.08, 0.09, 0.10]``, ``--upper-bound 0.90-0.90-0.90`` is ``grow_to: [0.10, 0.10, 0.10]``, ``--mask-update-decay-epoch 90-120``
is ``decay: [90 epochs, 120 epochs]``, and its update frequency is ``update.interval``. Defaults are EM's of the reference's
CIFAR scripts: keep 0.8, 0.9 and 1 times the density, decays at 90 and 120 of 160 epochs, interval 5 epochs, lambda 0.
Bounds are overall densities; each layer's come from the distribution at that density (see :mod:`.bounds`).

Deviations from the reference code, which is for one process: counts are exact (there percentiles drop all that tie with the
threshold, 184,304 of 184,320 weights are left); masks are stored, not inferred as w != 0, so neither biases freeze nor do
active weights that are exactly 0 leave; the gradient term acts (there it is read after it was zeroed); momentum of all that is
removed or grown is zeroed (there a weight that is removed and regrown at once goes on with its old momentum); profiles that
are not uniform stay so. The first mutation, before any gradient, goes by |w| alone.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``), with 95 % intervals: EM&S is above EM at
every density (+0.38 ± 0.24 points at 0.02), and the removal gradient brings nothing (-0.16 ± 0.14 with lambda 1).
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.methods.base import Decision, Method
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.forecast import Forecast, MaskUpdate, NetworkForecast
from dist_sparse.sparsity.methods.initial import initial_masks, largest_masks
from dist_sparse.sparsity.methods.mest.bounds import Bounds, Phase, plan_bounds, resolve_bounds
from dist_sparse.sparsity.methods.owned_gradients import OwnedGradients
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.selection import top_k


@dataclass(frozen=True, kw_only=True)
class MestPlan(Plan):
    """Masks that mutate between steps."""

    bounds: Bounds
    removal_gradient: float
    """The factor lambda in the score ``|w| + lambda |g|``."""

    @property
    def settled_after(self) -> int | None:
        last, bounds = self.bounds.phases[-1], self.bounds
        return bounds.next_mutation(bounds.decay[-1] if bounds.decay else 0) if last.keep == last.grow_to else None

    @property
    def keeps_counts(self) -> bool:
        """Nothing moves at all: what is removed is inactive for a moment."""
        return all(
            phase.keep == phase.grow_to and self.context.active(phase.keep) == self.active for phase in self.bounds.phases
        )

    def forecast(self, made: Sequence[int]) -> Forecast:
        active, updates = dict(self.active), []
        for due in range(0, made[-1], self.bounds.interval):
            phase, index = self.bounds.phase(due), bisect_right(made, due)
            grown = self.context.active(phase.grow_to)
            if phase.keep == phase.grow_to and grown == active:
                continue
            active = grown
            densities = {name: count / self.context.shapes[name].numel() for name, count in active.items()}
            updates.append(MaskUpdate(index=index, from_index=index, densities=densities))
        networks = [NetworkForecast(initial=self.initial_densities, updates=updates)]
        return Forecast(networks=networks, owned_copies=int(self.removal_gradient > 0))


class Mest(Method):
    """Remove the least important, grow at random."""

    name = "mest"
    uses = Method.uses | {"update.interval", "mest.keep", "mest.grow_to", "mest.decay", "mest.removal_gradient", "init"}
    inits = frozenset({"checkpoint"})
    keeps_density = False

    def __init__(self, plan: MestPlan, **held: Any) -> None:
        super().__init__(plan, **held)
        self._structure, self._seed = plan.context.structure, plan.context.run.seed
        self._bounds, self._lambda = plan.bounds, plan.removal_gradient
        self._mutated_at = -1  # steps done when a mutation was last due
        self._moved_before: int | None = None  # the step before whose forward the masks moved
        self._owned = OwnedGradients(self.access, self.agreement)
        self._gradients: dict[str, Tensor] = {}
        """The last step's gradients of this rank's layers; no rank has any where not :attr:`_has_gradients`."""
        self._has_gradients = False

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return resolve_bounds(config)

    @classmethod
    def plan(cls, context: Context) -> Plan:
        units = context.initial_units()
        return MestPlan(
            method=cls,
            context=context,
            initial_mask=initial_masks(cls, context, units) if context.carried else largest_masks(context, units),
            active=context.active(units),
            bounds=plan_bounds(context),
            removal_gradient=context.config.mest.removal_gradient,
        )

    def before_forward(self, step: int) -> None:
        """Mutate between two steps; further micro-batches of the step find it done."""
        due = self._bounds.latest_mutation(step - 1)
        if due <= self._mutated_at:
            return
        phase, owned = self._bounds.phase(due), self.agreement.owned()
        if not self._changes_nothing(phase):
            with self.access.gathered(weights=owned):
                kept = [self._gradients[name] for name in owned if name in self._gradients]
                if not self.agreement.all_finite([*map(self.access.values, owned), *kept]):
                    return  # a later step makes up for it
                self._mutate(due, phase)
            self._moved_before = step
        self._mutated_at = due

    def after_backward(self, step: int) -> Decision:
        self.access.mask_gradients(self.masks)
        if self._lambda:
            owned, self._has_gradients = self.agreement.owned(), True
            with self.access.gathered(gradients=owned):
                self._gradients = {name: self.access.grad(name).clone() for name in owned}
        return self.after_overflow(step)

    def after_overflow(self, step: int) -> Decision:
        return Decision(updates_masks=self._moved_before == step)

    def settled(self, step: int) -> bool:
        return super().settled(self._mutated_at)

    def at_final_density(self) -> bool:
        """The last mutation has grown to what the last phase grows to."""
        grown_to = self._bounds.phase(max(self._mutated_at, 0)).grow_to
        return self._mutated_at >= 0 and grown_to == self._bounds.phases[-1].grow_to

    def _changes_nothing(self, phase: Phase) -> bool:
        """Nothing to remove and nothing to grow: every layer holds what it keeps and grows to."""
        sizes = {name: self._structure.counts(self.access.weight(name).shape) for name in self.masks.names}
        held = {name: count // (sizes[name][0] * sizes[name][2]) for name, count in self.masks.active().items()}
        return phase.keep == phase.grow_to == held

    def _mutate(self, step: int, phase: Phase) -> None:
        # In two strides, so that a unit which is removed and grown again at once starts from 0 on all ranks.
        with self.one_update():
            self.replace_masks(self.agreement.decide(lambda name: self._kept(name, phase.keep[name])))
            self.replace_masks(self.agreement.decide(lambda name: self._grown(name, phase.grow_to[name], step)))

    def _kept(self, name: str, keep: int) -> Tensor:
        weight = self.access.weight(name)
        score = scores.magnitude(weight)
        if self._lambda and self._gradients:
            score += self._lambda * scores.magnitude(self._gradients[name])
        active = self._structure.active(self.masks[name])
        kept = top_k(self._structure.score(score), active.sum(1).cpu().clamp(max=keep), among=active)
        return self._structure.mask(kept, weight.shape, before=self.masks[name])

    def _grown(self, name: str, grow_to: int, step: int) -> Tensor:
        weight = self.access.weight(name)
        kept = self._structure.active(self.masks[name])
        draw = scores.random(tuple(kept.shape), generator("mutate", self._seed, step, name)).to(weight.device)
        grown = top_k(draw, (grow_to - kept.sum(1)).cpu(), among=~kept)
        choice = self._structure.random_choice(weight.shape, generator("choose", self._seed, step, name))
        return self._structure.mask(kept | grown, weight.shape, before=self.masks[name], choose_by=choice)

    def state_dict(self) -> dict[str, Any]:
        gradients = self._owned.gathered(self._gradients) if self._has_gradients else {}
        return {**super().state_dict(), "mutated_at": self._mutated_at, "gradients": gradients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._mutated_at = state["mutated_at"]
        self._has_gradients, self._gradients = bool(state["gradients"]), self._owned.own(state["gradients"])
