"""AC/DC: alternating compressed and decompressed training.

A. Peste, E. Iofinova, A. Vladu, D. Alistarh: "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks",
NeurIPS 2021, arXiv 2106.12379.

The network is dense up to ``ramp.start``. Then phases of ``update.interval`` steps alternate, after the optimizer's step::

    compressed    the round(d N) weights of largest |w| of the whole network stay, and only they are trained
    decompressed  all weights are trained; those that come back begin at 0, and all of these layers without momentum

The last decompressed phase lasts to ``ramp.end``, where the network is compressed for good. Defaults, of the paper's ResNet-50
with its 100 epochs: phases of 5 epochs from 10 % to 85 % of the run (compressed at epochs 10, 20 ... 70, and 85).

Deviations from the authors' code: counts are exact with ties, and biases and norms keep their momentum.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``): at density 0.1 it is 0.71 ± 0.41 points
below GMP; at 0.02 and below it is unstable at a rate of 0.1, since the loss explodes where all weights are trained again
beside few that have grown large. A lower rate helps.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.defaults import fill
from dist_sparse.sparsity.methods.forecast import LIKE_ERK, Forecast, MaskUpdate, NetworkForecast, scheduled_updates
from dist_sparse.sparsity.methods.gmp import Gmp
from dist_sparse.sparsity.methods.pruning.ramp import PruningPlan, Window
from dist_sparse.sparsity.schedules import ListedSteps
from dist_sparse.sparsity.structures import Structure

_log = logging.getLogger(__name__)

_RAMP = {"start": Length(0.1, "run"), "end": Length(0.85, "run")}


@dataclass(frozen=True, kw_only=True)
class AcDcPlan(PruningPlan):
    """Masks that are sparse and dense in turn: the first of the schedule's steps compresses, the second decompresses."""

    schedule: ListedSteps

    def forecast(self, made: Sequence[int]) -> Forecast:
        pruner, shapes = self.pruner, self.context.shapes
        phases = (pruner.densities_at(pruner.final, shapes, {}), dict.fromkeys(shapes, 1.0))
        updates = [
            MaskUpdate(index=index, from_index=index + 1, densities=phases[self.schedule.number(regular) % 2])
            for index, regular in scheduled_updates(self.schedule, made).items()
        ]
        return Forecast(networks=[NetworkForecast(initial=self.initial_densities, updates=updates)], estimate=LIKE_ERK)


class AcDc(Gmp):
    """Compress and decompress the whole network in turn."""

    name = "acdc"
    uses = Gmp.uses - {"init"}
    inits = frozenset()

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        return None if structure.layer_wide else "it compresses all layers together, whatever is then left in a set"

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        return fill(config, update={"interval": Length(5, "epochs")}, ramp=_RAMP)

    @classmethod
    def exchanges_state(cls, config: SparsityConfig, *, batch_norms: bool) -> str | None:
        return "AC/DC begins its state of the sparse layers anew at every decompression"

    @classmethod
    def plan(cls, context: Context) -> AcDcPlan:
        window, total = Window.of(context), context.run.total_steps
        if window.end >= total:
            raise UserError(
                f"sparsity.ramp.end={context.config.ramp.end} leaves none of the run's {total} steps to the compressed network"
            )
        begins = range(max(window.start, 1), window.end - 2 * window.interval + 1, 2 * window.interval)
        if not begins:
            _log.warning("no phases of %d steps fit into the ramp: the network is compressed once, at its end", window.interval)
        steps = [step for begin in begins for step in (begin, begin + window.interval)]
        base = super().plan(context)
        return AcDcPlan(**{**vars(base), "schedule": ListedSteps.of([*steps, window.end])})

    def update(self, step: int, regular: int) -> None:
        if self._schedule.number(regular) % 2 == 0:
            self.replace_masks(self._pruner.select(self._pruner.final, self.access, self.masks, self.agreement))
            return
        for name in self.masks.names:
            self.access.set_optimizer_state(name, {})
        self.replace_masks({name: torch.ones_like(self.masks[name]) for name in self.masks.names})

    def at_final_density(self) -> bool:
        return self._last_step >= self._schedule.end - 1
