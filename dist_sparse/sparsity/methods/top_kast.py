"""Top-KAST: the largest weights make the forward, and a larger set of them is trained.

S. Jayakumar, R. Pascanu, J. Rae, S. Osindero, E. Elsen: "Top-KAST: Top-K Always Sparse Training", NeurIPS 2020, 2106.03517.

Every ``interval`` steps, after the optimizer's step, in each layer with dense weights W of which a fraction d shall be active::

    A = the fraction d of largest |w|                    the forward runs with W * A
    B = the ``backward_density`` of largest |w|          their gradients are computed, and only they are trained
    penalty = decay / 2 |w|^2 on A, decay / (2 d) |w|^2 on B without A

What B leaves out keeps its value, and returns as others shrink; ``optim.weight_decay`` would shrink it too: leave it at 0.
Optimizers that move weights without a gradient are refused: those that mix entries, and those that keep weights in their state.
Defaults: B twice as dense as A, decay 1e-4, interval 100 (the paper finds one update in 100 steps enough). No code is public.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``), with 95 % intervals: not told apart from
dense training at density 0.1, and 0.71 ± 0.37 points below RigL at 0.01.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.distributions import allocate
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.base import Decision
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.dense_weights import KeepsDenseWeights
from dist_sparse.sparsity.methods.forecast import Forecast, MaskUpdate, NetworkForecast, scheduled_updates
from dist_sparse.sparsity.methods.initial import best_units, largest_masks
from dist_sparse.sparsity.methods.plan import ScheduledPlan
from dist_sparse.sparsity.methods.updating import Updating
from dist_sparse.sparsity.schedules import Constant, UpdateSchedule
from dist_sparse.sparsity.structures import Structure, parse_structure


@dataclass(frozen=True, kw_only=True)
class TopKastPlan(ScheduledPlan):
    """The units per selection set of each layer, in the forward and in the backward."""

    forward: Mapping[str, int]
    backward: Mapping[str, int]

    def forecast(self, made: Sequence[int]) -> Forecast:
        densities = self.initial_densities
        active, shapes = self.context.active(self.backward), self.context.shapes
        trained = {name: count / shapes[name].numel() for name, count in active.items()}
        updates = [
            MaskUpdate(index=index, from_index=index + 1, densities=densities, gradient_densities=trained)
            for index in scheduled_updates(self.schedule, made)
        ]
        network = NetworkForecast(initial=densities, initial_gradients=trained, updates=updates)
        return Forecast(networks=[network], mask_copies=2, weight_copies=1)


class TopKast(KeepsDenseWeights, Updating):
    """Forward with the largest weights, backward with more of them."""

    name = "top_kast"
    holds_untrained = True
    uses = Updating.uses - {"table"} | {"update.interval", "top_kast.backward_density", "top_kast.decay"}

    def __init__(self, plan: TopKastPlan, *, remask: bool, **held: Any) -> None:
        del remask  # an optimizer's weight decay gives momentum to weights that are not 0, whether it keeps zeros or not
        super().__init__(plan, remask=True, **held)
        self._plan = plan
        self._backward = Masks({name: self.access.weight(name) for name in self.masks.names})

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return None if structure.density is None else "its backward masks are denser than its forward masks"

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        density, given = config.density or 1.0, config.top_kast.backward_density
        if given is not None and given < density:
            raise UserError(f"sparsity.top_kast.backward_density={given:g} is below sparsity.density={density:g}, a part of it")
        most = float(parse_structure(config.structure).capacity)
        own = replace(config.top_kast, backward_density=given or min(most, 2 * density))
        return fill(replace(config, top_kast=own), update={"interval": Length(100, "steps")})

    @classmethod
    def plan(cls, context: Context) -> TopKastPlan:
        forward, density = context.units(), context.config.top_kast.backward_density
        assert density is not None, "resolve() fills it in"
        try:
            more = allocate(context.shapes, context.distribute(density), context.structure)
        except ValueError as error:
            raise UserError(f"sparsity.top_kast.backward_density={density:g} cannot be reached: {error}") from error
        return TopKastPlan(
            method=cls,
            context=context,
            initial_mask=largest_masks(context, forward),
            active=context.active(forward),
            schedule=UpdateSchedule(interval=context.interval(), end=context.run.total_steps + 1, drop=Constant(start=0.0)),
            forward=forward,
            backward={name: max(units, forward[name]) for name, units in more.items()},
        )

    @property
    def backward_masks(self) -> Masks:
        return self._backward

    def start(self) -> None:
        if not self._last_step:  # else they come with the checkpoint
            with self.access.gathered(weights=self.agreement.owned()):
                self._backward.replace(self._largest(self._plan.backward))
        super().start()

    def _largest(self, units: Mapping[str, int]) -> Mapping[str, Tensor]:
        weight = self.access.weight
        return self.agreement.decide(lambda name: best_units(scores.magnitude(weight(name)), units[name], self._structure))

    def after_backward(self, step: int) -> Decision:
        masks, densities, own = self.masks, self.masks.densities(), self._plan.context.config.top_kast
        self._restore_and_decay(lambda name: masks[name] + ~masks[name] / densities[name], own.decay)
        return super().after_backward(step)

    def update(self, step: int, regular: int) -> None:
        with self.one_update():
            self._backward.replace(self._largest(self._plan.backward))
            self.replace_masks(self._largest(self._plan.forward))

    def zero_inactive(self) -> None:
        """Weights keep their values; those that are not trained have no momentum."""
        self.access.mask_optimizer_state(self._backward)

    def digests(self, *, in_memory: bool = False) -> dict[str, int]:
        backward = self._backward.digests(in_memory=in_memory)
        return super().digests(in_memory=in_memory) | {f"backward {name}": digest for name, digest in backward.items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "backward": self._backward.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._backward.load_state_dict(state["backward"])
