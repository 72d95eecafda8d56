"""GraNet's class ``Masking``, of github.com/VITA-Group/GraNet (its CIFAR code): GMP, GraNet and RigL-ITOP.

Its ramp leaves out the last update, so GMP and GraNet end denser than they were told: "literal". For "corrected" it is told
the density with which it ends at that of our run. Its random initial masks are its own.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.references.reference import INTERVAL, Comparison, Driver, Gradients, Job, Reference, active_share

if TYPE_CHECKING:
    from dist_sparse.trainer import Trainer

NAMES = {"rigl_itop": "DST", "gmp": "GMP", "granet": "GraNet"}
"""What the repository calls the methods that the study's recipes have by the same settings."""
RAMPS = ("gmp", "granet")
RAMP_END = 0.5
"""The share of the run after which pruning has ended."""
DROP_FRACTION = 0.5


def final_density(method: str, density: float, steps: int, *, corrected: bool) -> float:
    """What the reference is told as its final density."""
    if method not in RAMPS or not corrected:
        return density
    left_out = (1 / (int(RAMP_END * steps) // INTERVAL)) ** 3
    return (density - left_out) / (1 - left_out)


class GraNet(Driver):
    """Calls ``Masking.step`` after each step of the optimizer, which the class would make itself."""

    def __init__(self, core: Any, job: Job) -> None:
        self._core, self._method, self._steps = core, job.comparison.recipe, job.steps
        self._told = final_density(self._method, job.density, job.steps, corrected=job.setting == "corrected")
        self._gradients = Gradients()

    def begin(self, trainer: "Trainer") -> None:
        epochs = trainer.config.train.epochs
        arguments = SimpleNamespace(
            method=NAMES[self._method],
            sparse_init="ERK",
            fix=False,
            update_frequency=INTERVAL,
            init_density=1.0 if self._method in RAMPS else self._told,
            final_density=self._told,
            init_prune_epoch=0,
            final_prune_epoch=RAMP_END * epochs,
            multiplier=1,
            rm_first=False,
        )
        optimizer = SimpleNamespace(state=trainer.engine._optimizer.state, step=lambda: None)
        self._masking = self._core.Masking(
            optimizer,
            prune_rate=DROP_FRACTION,
            prune_rate_decay=self._core.CosineDecay(DROP_FRACTION, self._steps),
            growth_mode="gradient",
            redistribution_mode="none",
            args=arguments,
            train_loader=range(self._steps // epochs),
        )
        self._masking.add_module(trainer.engine.model)

    def gradients_ready(self, trainer: "Trainer") -> None:
        self._gradients.keep(trainer.engine.model)

    def stepped(self, trainer: "Trainer") -> None:
        with self._gradients.given_back():
            self._masking.step()

    def density(self) -> float:
        return active_share(self._masking.masks)


REFERENCE = Reference(
    option="granet",
    repository="VITA-Group/GraNet",
    folder="CIFAR",
    module="sparselearning.core",
    comparisons=(
        Comparison(recipe="rigl_itop"),
        Comparison(recipe="gmp", settings=("literal", "corrected")),
        Comparison(recipe="granet", settings=("literal", "corrected")),
    ),
    driver=GraNet,
)
