"""AST: alternating sparse training of several sub-nets over one dense weight, with gradient correction.

L. Yang, J. Meng, J. Seo, D. Fan: "Get More at Once: Alternating Sparse Training with Gradient Correction", NeurIPS 2022.

K sub-nets share the dense weight W; each has a mask M_n and a set of batch norms of its own. Steps train them in turn, the
first K steps make the first group, and so on over the borders of epochs. A step of sub-net n::

    forward with W * M_n and the norms of n; g = dense gradient
    h = g * M_n;  after a sub-net of the same group, with gradient h' (before it was corrected itself), in every layer
        if <h, h'> < 0:  h -= <h, a> / |a|^2 a         a = h' * M_n (within_mask) or h' (whole)
    optimizer's step on W with h: decay and momentum go on where the mask is 0
    every interval:  up to ramp.end the round(d N) largest |W| of the network make M_n, whatever it was, d on a cubic ramp
                     per layer ceil(p nnz) smallest |W| leave it, as many of largest |g| come in and keep their value

Sub-net n updates n times ``ast.offset`` later than the first. With N:M (``ast.structures``) the ramp lowers the share of
groups that are dense; floor(p dense) of them are exchanged, for those of largest summed |g|. The batch norms from the first
sparse layer on are separate, those before it shared. At rest the model's weights are dense; sub-nets are views of it.

Defaults, of the reference's CIFAR runs (densities 0.1, 0.05, 0.02): p from 0.5 to 0.005 along a cosine to the end, ramp over
110 of 160 epochs, offset 30 % of the interval (1,000 steps here, 999 there); the correction is on here (CIFAR there: off).

Deviations from the reference code: growth sees the dense gradient, not the masked one that can only restore what was just
dropped; correction compares with the previous gradient, not with itself; counts are exact and a layer keeps at least a
weight, instead of turning dense; of N:M groups those of largest |w| stay dense, not the smallest, the choice is drawn, and
regrown groups last. An update follows the step of the sub-net as GraNet's does here (there it precedes the next), and an
interval that K does not divide is kept on average. Overflow repeats the sub-net. One sub-net with ``ast.unused: zero`` (its
default then) is GraNet, bit for bit while GraNet empties no layer.

Found here (LeNet-300-100 on Fashion-MNIST at densities 0.04 and 0.02, five seeds, ``benchmarks/README.md``), with 95 %
intervals: with correction and without is not told apart (+0.03 ± 0.45 points without), where the paper reports a gain; the
sparsest sub-net is 0.82 ± 0.26 above RigL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.ast.correction import Correction, Kind
from dist_sparse.sparsity.methods.ast.pruners import Layers
from dist_sparse.sparsity.methods.ast.schedule import RoundRobin, SubNetSchedule, derive, plan_sub_nets
from dist_sparse.sparsity.methods.ast.sub_nets import SubNets, stored_masks
from dist_sparse.sparsity.methods.base import Decision, Method, Network, StoredMasks
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.drop_grow.plan import DEFAULTS
from dist_sparse.sparsity.methods.forecast import LIKE_ERK, Forecast
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.structures import NM, Structure, Unstructured

_RAMP = {"initial_density": 1.0, "start": Length(0, "steps"), "end": Length(0.6875, "run")}


@dataclass(frozen=True, kw_only=True)
class AstPlan(Plan):
    """Sub-nets in turn."""

    schedule: SubNetSchedule
    correction: Kind
    zero_unused: bool
    """Weights that no sub-net has are zero."""

    def forecast(self, made: Sequence[int]) -> Forecast:
        networks = self.schedule.forecast(made, self.initial_densities, self.context.shapes)
        return Forecast(
            networks=networks,
            dense_gradient_steps=sorted(update.index for network in networks for update in network.updates),
            mask_copies=len(networks) + 1,  # and their union
            weight_copies=1,
            estimate="" if self.context.config.ast.structures else LIKE_ERK,
        )


class Ast(Method):
    """Sub-nets in turn."""

    name = "ast"
    uses = (Method.uses - {"table"}) | {
        *(f"update.{key}" for key in DEFAULTS["itop"]),
        *(f"ramp.{key}" for key in _RAMP),
        *(f"ast.{key}" for key in ("densities", "structures", "offset", "correction", "unused")),
    }
    dense_weights = "the sub-nets share dense weights, and each has batch norms of its own"

    def __init__(self, plan: AstPlan, *, remask: bool, **held: Any) -> None:
        remask |= plan.zero_unused and plan.correction == "whole"  # which moves what the sub-net before has just dropped
        super().__init__(plan, remask=remask, **held)
        schedule = plan.schedule
        self._schedule, self._zero_unused = schedule, plan.zero_unused
        self._nets = SubNets(self.access, self.masks, len(schedule.pruners))
        self._correct = Correction(self.access, plan.correction, group=len(schedule.pruners))
        self._round_robin = RoundRobin(schedule)
        self._due: int | None = None
        self._gradients: dict[str, Tensor] = {}

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return None if isinstance(structure, Unstructured | NM) else "its sub-nets are unstructured or N:M"

    @classmethod
    def derive(cls, config: SparsityConfig) -> SparsityConfig:
        return derive(config)

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return fill(config, update=DEFAULTS["itop"], ramp=_RAMP)

    @classmethod
    def exchanges_state(cls, config: SparsityConfig, *, batch_norms: bool) -> str | None:
        several = len(config.ast.densities or config.ast.structures) > 1
        return "AST's sub-nets need a state of it each for their batch norms" if several and batch_norms else None

    @classmethod
    def plan(cls, context: Context) -> Plan:
        schedule, config, initial = plan_sub_nets(context), context.config.ast, context.config.ramp.initial_density
        units = context.all_units() if initial == 1 else context.units(initial)
        return AstPlan(
            method=cls,
            context=context,
            initial_mask=context.random_masks(units),
            active=context.active(units),
            schedule=schedule,
            correction=config.correction,
            zero_unused=config.unused == "zero" or (config.unused is None and len(schedule.pruners) == 1),
        )

    def before_forward(self, step: int) -> None:
        self.masks = self._nets.enter(self._round_robin.number)

    def gradient_masks(self, step: int) -> Masks | None:
        return self.masks if self._round_robin.due(step) is None else None

    def chooses(self, step: int) -> bool:
        return self._round_robin.due(step) is not None

    def after_backward(self, step: int) -> Decision:
        self._nets.leave()
        self._due = self._round_robin.due(step)
        if due := self._due is not None:
            owned = self.agreement.owned()
            with self.access.gathered(gradients=owned):
                self._gradients = {name: self.access.grad(name).clone() for name in owned}
        self.access.mask_gradients(self.masks)
        self._correct(self.masks, self._round_robin.number)
        return Decision(updates_masks=due)

    def after_overflow(self, step: int) -> Decision:
        self._nets.leave()
        return Decision()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        if self._due is None or self._update_gathered(step, self._due):
            self._round_robin.end()

    def _update_gathered(self, step: int, regular: int) -> bool:
        """Whether the masks have moved. Else weights or gradients are not finite, and the sub-net has another turn."""
        owned = self.agreement.owned()
        with self.access.gathered(weights=owned):
            if sound := self.agreement.all_finite([*map(self.access.weight, owned), *self._gradients.values()]):
                self._update(self._round_robin.number, step, regular)
            else:
                self.changed, self._gradients = dict.fromkeys(self.masks.names, 0), {}
        return sound

    def _update(self, number: int, step: int, regular: int) -> None:
        pruner, part = self._schedule.pruners[number], self._schedule.fraction(number, regular)
        weights = {name: self.access.weight(name) for name in self.masks.names}
        dense, self._gradients = self._gradients, {}
        with self.one_update():
            if (pruning := self._round_robin.pruning(regular)) is not None:
                among = self._nets.union if self._zero_unused else None
                layers = Layers(weights=weights, masks=self.masks, candidates=among, agreement=self.agreement)
                self.replace_masks(pruner.prune(pruning, step, layers))
            self.replace_masks(
                self.agreement.decide(lambda name: pruner.regrow(weights[name], self.masks[name], dense[name], part))
            )

    def enforce_masks(self) -> None:
        self._nets.unite()
        super().enforce_masks()

    def zero_inactive(self) -> None:
        """What no sub-net has, and only where that is to be zero."""
        if self._zero_unused:
            self.access.mask_weights(self._nets.union)
            self.access.mask_optimizer_state(self._nets.union)

    def networks(self) -> Sequence[Network]:
        return self._nets.networks()

    def at_final_density(self) -> bool:
        return self._round_robin.done(len(self._nets) - 1)

    def digests(self, *, in_memory: bool = False) -> dict[str, int]:
        return self._nets.digests(in_memory=in_memory)

    def state_dict(self) -> dict[str, Any]:
        return {**self._nets.state_dict(), **self._round_robin.state_dict(), "previous": self._correct.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._nets.load_state_dict(state)
        self._round_robin.load_state_dict(state)
        self._correct.load_state_dict(state["previous"])

    @classmethod
    def stored_masks(cls, state: Mapping[str, Any]) -> Sequence[StoredMasks]:
        return stored_masks(state)
