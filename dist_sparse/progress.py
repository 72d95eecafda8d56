"""How far a run is."""

import dataclasses
from dataclasses import dataclass

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
    layer_density_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """As ``density_sum``, by layer."""
    gradient_density_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """Over the steps made, the share of each layer's weights whose gradients the step needed."""
    computed_sums: dict[str, float] = dataclasses.field(default_factory=dict)
    """Over the steps made, the share of each layer's products that were computed in fact, the mean of the three passes."""

    @property
    def mean_density(self) -> float:
        return self.density_sum / max(self.steps_made, 1)

    def add_densities(self, masks: Masks, gradient_masks: Masks | None, execution: Execution) -> None:
        """A step runs forward with ``masks`` and needs the gradients within ``gradient_masks``, or all if that is None."""
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
                sums[name] = sums.get(name, 0.0) + density

    def flops_saved(self, cost: Cost) -> float:
        """The share of the dense steps' FLOPs that were not computed."""
        if not self.steps_made:
            return 0.0
        return 1 - cost.forward_share({name: total / self.steps_made for name, total in self.computed_sums.items()})

    def training_cost(self, cost: Cost) -> float:
        """FLOPs of the steps made, relative to dense training, by the layers' shares of ``cost`` (:mod:`dist_sparse.flops`)."""
        steps = max(self.steps_made, 1)
        forward, gradients = (
            {name: total / steps for name, total in sums.items()}
            for sums in (self.layer_density_sums, self.gradient_density_sums)
        )
        return training_cost(cost.forward_share(forward), cost.forward_share(gradients))
