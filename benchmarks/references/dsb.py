"""The sparse layers of github.com/HPC-Research-Lab/shuffled-block-sparse-training: dynamic shuffled blocks (DSB) of 4x4.

Its loop ends the updates at half of the step to which their drop fraction is annealed: "literal". For "corrected" both are
where they are in our recipe. Densities are Erdos-Renyi-kernel ones of all layers, by our function, since its own lies in its
training script.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.references.reference import INTERVAL, Comparison, Driver, Gradients, Job, Reference, active_share

if TYPE_CHECKING:
    from torch import nn

    from dist_sparse.trainer import Trainer

END, DROP_FRACTION, BLOCK = 0.75, 0.3, 4
"""Of the recipe `dsb`."""


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
        self._layers = {}
        for name, old in list(model.named_modules()):
            if isinstance(old, torch.nn.Conv2d):
                at = (old.stride[0], old.padding[0])
                self._layers[name] = self._module.SparseConv2d(old.in_channels, old.out_channels, old.kernel_size[0], *at)
            elif isinstance(old, torch.nn.Linear):
                self._layers[name] = linear.SparseLinear(old.in_features, old.out_features)
            else:
                continue
            _replace(model, name, old, self._layers[name])
        densities = erdos_renyi({name: layer.weight.shape for name, layer in self._layers.items()}, self._job.density)
        for name, layer in self._layers.items():
            start = layer.init_conv_weight_mask if hasattr(layer, "kernel_size") else layer.init_linear_weight_mask
            start(1 - densities[name], block_size=BLOCK)

    def gradients_ready(self, trainer: "Trainer") -> None:
        self._gradients.keep(trainer.engine.model)

    def stepped(self, trainer: "Trainer") -> None:
        done = trainer.progress.step
        if done % INTERVAL == 0 and done - 1 < self._end:
            with self._gradients.given_back():
                for layer in self._layers.values():
                    update = (
                        layer.update_conv_weight_mask if hasattr(layer, "kernel_size") else layer.update_linear_weight_mask1
                    )
                    update(done - 1, DROP_FRACTION, self._annealed_to, block_size=BLOCK)

    def density(self) -> float:
        return active_share({name: layer.weight_mask for name, layer in self._layers.items()})


def _clustering(*, affinity: str, **named: Any) -> Any:
    """scikit-learn's class, one of whose arguments has had another name since the repository was written."""
    from sklearn.cluster import AgglomerativeClustering

    return AgglomerativeClustering(metric=affinity, **named)


def _replace(model: "nn.Module", name: str, old: Any, new: Any) -> None:
    """Put a layer in the place of another, with the same parameters."""
    new.weight, new.bias = old.weight, old.bias
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


REFERENCE = Reference(
    option="dsb",
    repository="HPC-Research-Lab/shuffled-block-sparse-training",
    folder=".",
    module="convolution",
    comparisons=(Comparison(recipe="dsb", settings=("literal", "corrected"), network="cnn_4"),),
    driver=ShuffledBlocks,
)
