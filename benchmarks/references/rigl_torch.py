"""``RigLScheduler`` of github.com/nollied/rigl-torch, which many use as RigL for PyTorch.

It has no Erdos-Renyi densities: all layers but the first have the same one, and the first is dense; so are those of our run
beside it. Linear layers are masked (``ignore_linear_layers=False``), or nothing would be in this network. Its random initial
masks are its own.
"""

from typing import TYPE_CHECKING, Any

from benchmarks.references.reference import INTERVAL, Comparison, Driver, Job, Reference, active_share

if TYPE_CHECKING:
    from dist_sparse.trainer import Trainer

END, DROP_FRACTION = 0.75, 0.3
"""The share of the run after which updates have ended, and the first drop fraction, of the recipe `rigl`."""


class RigLTorch(Driver):
    """Asks the scheduler before each step whether the optimizer is to make it; it says no where it has moved a mask."""

    def __init__(self, module: Any, job: Job) -> None:
        self._module, self._density, self._end = module, job.density, int(END * job.steps)
        self._go = True

    def begin(self, trainer: "Trainer") -> None:
        optimizer = trainer.engine._optimizer
        self._scheduler = self._module.RigLScheduler(
            trainer.engine.model,
            optimizer,
            dense_allocation=self._density,
            T_end=self._end,
            sparsity_distribution="uniform",
            ignore_linear_layers=False,
            delta=INTERVAL,
            alpha=DROP_FRACTION,
        )
        step = optimizer.step  # the scheduler's own by now, which masks what the optimizer moved
        optimizer.step = lambda: step() if self._go else None

    def gradients_ready(self, trainer: "Trainer") -> None:
        self._go = self._scheduler()

    def density(self) -> float:
        masks = self._scheduler.backward_masks
        return active_share({str(number): mask for number, mask in enumerate(masks) if mask is not None})


REFERENCE = Reference(
    option="rigl-torch",
    repository="nollied/rigl-torch",
    folder=".",
    module="rigl_torch.RigL",
    comparisons=(
        Comparison(recipe="rigl", changed=(("sparsity.distribution", "uniform"), ("sparsity.keep_dense", "[first]"))),
    ),
    driver=RigLTorch,
)
