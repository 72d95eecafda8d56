"""One update of shuffled blocks in ResNet-50: what it costs, what of it is clustering, and a RigL update beside it."""

import argparse
from collections.abc import Callable
from itertools import count
from unittest import mock

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.resnet50 import Trainee, build, start
from dist_sparse.engines.precision import Precision
from dist_sparse.sparsity.methods.shuffled_block import blocks, row_groups
from dist_sparse.sparsity.methods.shuffled_block.method import ShuffledBlock

REST = "shuffled blocks, all but clustering"


def main() -> None:
    args = _arguments()
    device = start(args.device)
    timing.pin(device)
    for density in args.density:
        timings = measure(density, args.rounds, device)
        print(timings.table(f"mask update, density {density}", against=("RigL", REST)), end="\n\n")
    print(timing.setting(device))


def measure(density: float, rounds: int, device: torch.device) -> timing.Timings:
    """Both updates, and the parts of the second, at one density."""
    rigl, shuffled = (Bench(build(name, density, Precision(device=device))) for name in ("rigl", "shuffled_block"))
    parts = Parts(shuffled)

    def restore() -> None:
        rigl.restore()
        shuffled.restore()

    candidates = {
        "RigL": rigl.update,
        "shuffled blocks": shuffled.update,
        REST: parts.without_clustering,
        "clustering": parts.cluster,
        "of it, distances": parts.measure_distances,
        "of it, linkage": parts.link,
    }
    return timing.interleaved(candidates, rounds, prepare=restore, clock=timing.clock_for(device))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each part is measured")
    parser.add_argument("--density", type=float, nargs="+", default=[0.1, 0.5], help="active weights over all weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


class Bench:
    """One network, given back its weights, gradients, momentum and masks before each update."""

    def __init__(self, trainee: Trainee) -> None:
        self._weights, self.method, self._optimizer = trainee.weights, trainee.method, trainee.optimizer
        self._masks, self._steps = trainee.masks(), count(1)
        self._blocks = dict(self.method.blocks) if isinstance(self.method, ShuffledBlock) else {}
        self._saved = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._grads = {name: torch.randn_like(weight) for name, weight in self._saved.items()}

    def restore(self) -> None:
        """The state in which every update starts."""
        for name, weight in self._weights.items():
            weight.data.copy_(self._saved[name])
            weight.grad = self._grads[name].clone()
            self._optimizer.state[weight]["momentum_buffer"] = self._saved[name].clone()
        self.method.masks.replace(self._masks)
        if isinstance(self.method, ShuffledBlock):
            self.method.blocks = dict(self._blocks)

    def update(self) -> None:
        """One whole update."""
        self.method.after_backward(next(self._steps))


class Parts:
    """The clustering of one update by itself, and the update with the groups at hand."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._asked: list[tuple[Tensor, int]] = []
        self._groups: list[Tensor] = []
        bench.restore()
        self._update_with(self._remember)
        self._distances = [row_groups._distances(mask) for mask, _ in self._asked]

    def without_clustering(self) -> None:
        """The update, given its row groups."""
        groups = iter(self._groups)
        self._update_with(lambda *_: next(groups))

    def cluster(self) -> None:
        """The row groups of all layers."""
        for mask, size in self._asked:
            row_groups.row_groups(mask, size)

    def measure_distances(self) -> None:
        """The distances between the rows of each layer."""
        for mask, _ in self._asked:
            row_groups._distances(mask)

    def link(self) -> None:
        """The tree of each layer's rows."""
        for distances in self._distances:
            row_groups.linkage(distances, method="complete")

    def _remember(self, mask: Tensor, size: int) -> Tensor:
        self._asked.append((mask, size))
        self._groups.append(row_groups.row_groups(mask, size))
        return self._groups[-1]

    def _update_with(self, groups_of: Callable[[Tensor, int], Tensor]) -> None:
        with mock.patch.object(blocks, "row_groups", groups_of):
            self._bench.update()


if __name__ == "__main__":
    main()
