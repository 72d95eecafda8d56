"""One RigL mask update of ResNet-50: selection, agreement, and masking of all that holds weights; here and as others do it."""

import argparse
from collections.abc import Callable, Mapping
from itertools import count

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.peers import GraNet, RiglTorch
from benchmarks.resnet50 import DROP_FRACTION, Trainee, build, start
from dist_sparse.engines.packed import PackedDDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.memory import keep_memory
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.agreement import Agreement

PACKED = "dist_sparse, packed weights"


def main() -> None:
    args = _arguments()
    device = start(args.device)
    timing.pin(device)
    keep_memory()  # as a run does
    for density in args.density:
        bench = Bench(build("rigl", density, Precision(device=device)), device)
        clock = timing.clock_for(device)
        packed = PackedBench(density, device)

        def restore(bench: Bench = bench, packed: PackedBench = packed) -> None:
            bench.restore()
            packed.restore()

        candidates = {**bench.candidates(), PACKED: packed.update}
        timings = timing.interleaved(candidates, args.rounds, prepare=restore, clock=clock)
        print(timings.table(f"mask update, density {density}", against=("GraNet", "rigl-torch", "dist_sparse")), end="\n\n")
    print(timing.setting(device))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each update is measured")
    parser.add_argument("--density", type=float, nargs="+", default=[0.1, 0.2], help="active weights over all weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


class Bench:
    """One network, given back its weights, gradients, momentum and masks before each update."""

    def __init__(self, trainee: Trainee, device: torch.device) -> None:
        self._weights, self._method, self._optimizer = trainee.weights, trainee.method, trainee.optimizer
        self._masks = trainee.masks()
        self._device, self._steps = device, count(1)
        self._saved = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._grads = {name: torch.randn_like(weight) for name, weight in self._saved.items()}
        self._granet = GraNet(self._weights, self._optimizer, self._masks)
        self._rigl_torch = RiglTorch(self._weights, self._optimizer, self._masks)

    def candidates(self) -> dict[str, Callable[[], None]]:
        """What is measured, by name."""
        return {
            "GraNet": lambda: self._granet.update(DROP_FRACTION),
            "rigl-torch": lambda: self._rigl_torch.update(DROP_FRACTION, self._grads),
            "dist_sparse": self._update(self._method.agreement),
            "dist_sparse, largest share of 2 owners": self._update(LargestShare(self._masks, 2, self._device)),
            "dist_sparse, largest share of 4 owners": self._update(LargestShare(self._masks, 4, self._device)),
        }

    def restore(self) -> None:
        """The state in which every update starts."""
        for name, weight in self._weights.items():
            weight.data.copy_(self._saved[name])
            weight.grad = self._grads[name].clone()
            self._optimizer.state[weight]["momentum_buffer"] = self._saved[name].clone()
        self._method.masks.replace(self._masks)
        self._granet.masks = {name: mask.float() for name, mask in self._masks.items()}
        self._rigl_torch.masks = {name: mask.clone() for name, mask in self._masks.items()}

    def _update(self, agreement: Agreement) -> Callable[[], None]:
        def run() -> None:
            self._method.agreement = agreement
            self._method.after_backward(next(self._steps))

        return run


class PackedBench:
    """The same of packed weights: what a step takes of whole gradients, the update, and the repacking of all that is held."""

    def __init__(self, density: float, device: torch.device) -> None:
        precision = Precision(device=device)
        self._trainee = build("rigl", density, precision, execute=PackedWeights)
        assert isinstance(self._trainee.engine, PackedDDPEngine)
        self._engine, self._steps = self._trainee.engine, count(1)
        self._masks = self._trainee.masks()
        with self._engine.gathered(weights=self._masks):
            self._saved = {name: self._engine.weight(name).clone() for name in self._masks}
        self._grads = {name: torch.randn_like(weight) for name, weight in self._saved.items()}

    def restore(self) -> None:
        self._trainee.method.masks.replace(self._masks)
        self._engine.mask_weights(self._trainee.method.masks)
        self._engine.set_values(self._saved)
        for name, parameter in self._engine.model.named_parameters():
            if name in self._masks:
                parameter.grad = torch.randn_like(parameter)
                self._trainee.optimizer.state[parameter]["momentum_buffer"] = torch.randn_like(parameter)

    def update(self) -> None:
        method, step = self._trainee.method, next(self._steps)
        wanted = method.wanted_gradients(step)
        self._engine._micro_batches = 1  # a step's boundary
        self._engine._collected.listen(wanted)
        for name, layer in self._engine._packed.layers.items():
            assert layer.collect is not None
            layer.collect(name, self._grads[name])
        method.after_backward(step)
        self._engine._collected.clear()


class LargestShare(Agreement):
    """The owner with most to decide, with nothing sent: it packs its masks, and the others' are at hand."""

    def __init__(self, masks: Mapping[str, Tensor], world_size: int, device: torch.device) -> None:
        self._shapes_of = {name: mask.shape for name, mask in masks.items()}
        self._others = {name: bits.pack(mask) for name, mask in masks.items()}
        ranks = [Agreement(self._shapes_of, rank=rank, world_size=world_size, device=device) for rank in range(world_size)]
        loads = [sum(masks[name].numel() for name in agreement.owned()) for agreement in ranks]
        super().__init__(self._shapes_of, rank=loads.index(max(loads)), world_size=world_size, device=device)

    def decide(self, select: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        packed = self._others | {name: bits.pack(select(name)) for name in self.owned()}
        return bits.Unpacked(packed, self._shapes_of)

    def verify(self, digests_of_masks: Callable[[], Mapping[str, int]]) -> None:
        """Take the digests; there is nobody to compare them with."""
        digests_of_masks()


if __name__ == "__main__":
    main()
