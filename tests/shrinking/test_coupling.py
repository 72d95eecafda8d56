"""Which units go together: the same as torch-pruning's dependency graph finds, which follows gradients, not operations."""

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.shrinking.coupling import Coupling
from dist_sparse.shrinking.trace import masked_copy, trace
from dist_sparse.shrinking.walk import Walk
from tests.shrinking.networks import network

pruning = pytest.importorskip("torch_pruning")

Place = tuple[str, int, int]
"""Weight, dimension, position."""


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "densenet121"])
def test_units_are_coupled_as_torch_pruning_says(name: str) -> None:
    model = network(name, **({"block_config": (3, 3)} if name == "densenet121" else {})).float()
    image = torch.zeros(1, 3, 32, 32)
    ours = coupled(Walk(trace(masked_copy(model, {}), image)).run())
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1}
    for layer, expected in theirs(model, layers, image).items():
        assert ours[f"{layer}.weight", 0, 1] == expected, layer


def coupled(coupling: Coupling) -> dict[Place, set[Place]]:
    """All places that go with each; of weights alone, since torch-pruning speaks of modules."""
    places: dict[int, set[Place]] = {}
    for name, axes in coupling.axes.items():
        for dim, ids in axes.items() if name.endswith(".weight") else ():
            for position, root in enumerate(coupling.units.roots(ids).tolist()):
                places.setdefault(root, set()).add((name, dim, position))
    return {place: group for group in places.values() for place in group}


def theirs(model: nn.Module, layers: dict[str, nn.Conv2d], image: Tensor) -> dict[str, set[Place]]:
    """By layer: what goes with its second output."""
    names = {module: name for name, module in model.named_modules()}
    graph = pruning.DependencyGraph().build_dependency(model, example_inputs=image)
    found: dict[str, set[Place]] = {}
    for layer, module in layers.items():
        group = found.setdefault(layer, set())
        for dependency, positions in graph.get_pruning_group(module, pruning.prune_conv_out_channels, idxs=[1]):
            target = dependency.target.module
            if not isinstance(target, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                continue
            whole = isinstance(target, nn.BatchNorm2d) or (isinstance(target, nn.Conv2d) and target.groups > 1)
            dim = int("in_channels" in dependency.handler.__name__ and not whole)
            group |= {(f"{names[target]}.weight", dim, position) for position in positions}
    return found
