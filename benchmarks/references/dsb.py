"""The sparse layers of github.com/HPC-Research-Lab/shuffled-block-sparse-training: dynamic shuffled blocks (DSB) of 4x4.

Its loop ends the updates at half of the step to which their drop fraction is annealed: "literal". For "corrected" both are
where they are in our recipe. Densities are Erdos-Renyi-kernel ones of all layers, by our function, since its own lies in its
training script.
"""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.references.reference import INTERVAL, Comparison, Driver, Gradients, Job, Reference, active_share, put_in_place

if TYPE_CHECKING:
    from dist_sparse.trainer import Trainer

END, DROP_FRACTION, BLOCK = 0.75, 0.3, 4
"""The share of the run after which updates have ended, the first drop fraction and the block size of the recipe `dsb`."""


class ShuffledBlocks(Driver):
    """Gives our network the repository's layers, and updates their masks after a step."""

    def __init__(self, module: Any, job: Job) -> None:
        self._module, self._job = module, job
        self._end = int(END * job.steps)
        self._annealed_to = 2 * self._end if job.setting == "literal" else self._end
        self._gradients = Gradients()

    def begin(self, trainer: "Trainer") -> None:
        import torch

        from dist_sparse.sparsity.distributions import erdos_renyi

        model = trainer.engine.model
        linear, blocks = import_module("linear"), import_module("extract_blocks")
        blocks.AgglomerativeClustering = _clustering
        self._layers: dict[str, Any] = {}
        self._updates: list[Callable[..., None]] = []
        starts = {}
        for name, old in list(model.named_modules()):
            if isinstance(old, torch.nn.Conv2d):
                at = (old.kernel_size[0], old.stride[0], old.padding[0])
                new = self._module.SparseConv2d(old.in_channels, old.out_channels, *at)
                start, update = new.init_conv_weight_mask, new.update_conv_weight_mask
            elif isinstance(old, torch.nn.Linear):
                new = linear.SparseLinear(old.in_features, old.out_features)
                start, update = new.init_linear_weight_mask, new.update_linear_weight_mask1
            else:
                continue
            put_in_place(model, name, new)
            self._layers[name], starts[name] = new, start
            self._updates.append(update)
        densities = erdos_renyi({name: layer.weight.shape for name, layer in self._layers.items()}, self._job.density)
        for name, start in starts.items():
            start(1 - densities[name], block_size=BLOCK)

    def gradients_ready(self, trainer: "Trainer") -> None:
        self._gradients.keep(trainer.engine.model)

    def stepped(self, trainer: "Trainer") -> None:
        done = trainer.progress.step
        if done % INTERVAL == 0 and done - 1 < self._end:
            with self._gradients.given_back():
                for update in self._updates:
                    update(done - 1, DROP_FRACTION, self._annealed_to, block_size=BLOCK)

    def density(self) -> float:
        return active_share({name: layer.weight_mask for name, layer in self._layers.items()})


def _clustering(*, affinity: str, **named: Any) -> Any:
    """scikit-learn's class, one of whose arguments has had another name since the repository was written."""
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(metric=affinity, **named)


REFERENCE = Reference(
    option="dsb",
    repository="HPC-Research-Lab/shuffled-block-sparse-training",
    folder=".",
    module="convolution",
    comparisons=(Comparison(recipe="dsb", settings=("literal", "corrected"), network="cnn_4", densities=(0.05,)),),
    driver=ShuffledBlocks,
)
