"""How far a run is."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dist_sparse.cost import Cost
from dist_sparse.execution.execution import Execution
from dist_sparse.flops import training_cost
from dist_sparse.sparsity.masks import Masks


@dataclass(kw_only=True)
class Progress:
    """How far the run is, and its best. ``best_top1`` is of the averaged weights if there are any.

    Only networks at their final density count, so that there is no best (step 0) while the density still moves.
    """

    step: int = 0
    best_top1: float = -1.0
    best_step: int = 0
    last_top1: float = -1.0
    validation_pending: bool = False
    """The run was stopped before the validation that is due at this step was over."""
    seconds: float = 0.0
    seconds_per_step: float = 0.0
    """As in the last row of training metrics: loading, forward, backward and the optimizer; no validation, no saving."""
    steps_made: int = 0
    """Optimizer steps; fewer than ``step`` says where samples were left out."""
    density_sum: float = 0.0
    """Over the steps made, the density that each ran forward with."""
    peak_density: float = 0.0
    work: float = 0.0
    """Over the steps made, what each would cost if it were dense, in steps on the largest images of the run."""
    layer_density_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """Over the steps made, weighted by their work, the density that each layer ran forward with."""
    gradient_density_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """As above, the share of each layer's weights whose gradients the step needed."""
    computed_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """As above, the share of each layer's products that were computed in fact, the mean of the three passes."""

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Progress":
        """The progress that a checkpoint holds; those of earlier versions have no ``work``, since each step counted as one."""
        return cls(**{"work": float(state["steps_made"]), **state})

    @property
    def mean_density(self) -> float:
        return self.density_sum / max(self.steps_made, 1)

    def add_step(self, masks: Masks, gradient_masks: Masks | None, execution: Execution, *, work: float = 1.0) -> None:
        """A step runs forward with ``masks`` and needs the gradients within ``gradient_masks``, or all if that is None.

        ``work`` is what it would cost if it were dense, in steps on the largest images of the run.
        """
        self.steps_made += 1
        self.work += work
        self.density_sum += masks.density()
        self.peak_density = max(self.peak_density, masks.density())
        needed = dict.fromkeys(masks.names, 1.0) if gradient_masks is None else gradient_masks.densities()
        computed = execution.computed(masks, gradient_masks)
        for sums, densities in (
            (self.layer_density_sums, masks.densities()),
            (self.gradient_density_sums, needed),
            (self.computed_sums, computed),
        ):
            for name, density in densities.items():
                sums[name] = sums.get(name, 0.0) + work * density

    def flops_saved(self, cost: Cost) -> float:
        """The share of the dense steps' FLOPs that were not computed."""
        return 1 - cost.forward_share(self._mean(self.computed_sums)) if self.work else 0.0

    def training_cost(self, cost: Cost) -> float:
        """FLOPs of the steps made, relative to dense training, by the layers' shares of ``cost`` (:mod:`dist_sparse.flops`)."""
        forward, gradients = self._mean(self.layer_density_sums), self._mean(self.gradient_density_sums)
        return training_cost(cost.forward_share(forward), cost.forward_share(gradients))

    def _mean(self, sums: dict[str, float]) -> dict[str, float]:
        return {name: total / (self.work or 1.0) for name, total in sums.items()}
