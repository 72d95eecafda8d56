"""A training step that multiplies by active weights alone, against the same step with masked dense matrices."""

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import timm
import torch
from torch import Size, Tensor, nn

import dist_sparse.models  # noqa: F401 - registers the networks with timm
from benchmarks import layer_passes, timing
from benchmarks.layer_passes import MaskedLayer
from benchmarks.resnet50 import Trainee, build, start
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.backends import compiled_backend
from dist_sparse.execution.choose import Fastest
from dist_sparse.execution.current import Current
from dist_sparse.execution.execution import Execution
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.layers import Layer, layers_of
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.execution.prepare import prepare
from dist_sparse.execution.products import Products
from dist_sparse.execution.setting import Setting
from dist_sparse.execution.survey import measured_costs
from dist_sparse.memory import keep_memory
from dist_sparse.sparsity.masks import Masks
from dist_sparse.step import TrainStep

Execute = Callable[[nn.Module, Masks], PackedWeights | None]
DENSE = ("first", "last")
"""The first convolution and the classifier have no masks."""


def main() -> None:
    args = _arguments()
    device = start("cpu")
    if args.threads == 1:
        timing.pin(device)
    torch.set_num_threads(args.threads)
    keep_memory()
    images, labels = torch.rand(args.batch, args.channels, args.size, args.size), torch.randint(args.classes, (args.batch,))
    candidates, sparse = _dense(args, images, labels), _sparse(args, images, packed=False)
    for name, each in (("sparse, fp32", sparse), ("sparse and packed, fp32", _sparse(args, images, packed=True))):
        execution = Execution(current=each.current, choose=each.choose)
        candidates[name] = _step(each.trained, images, labels, execution)
    clock = timing.clock_for(device) if args.threads == 1 and not args.wall else time.perf_counter
    timings = timing.interleaved(candidates, args.rounds, clock=clock)
    title = f"{args.model}, batch {args.batch} at {args.size} x {args.size}, {args.structure}, density {args.density}"
    print(timings.table(title, _fastest(timings)), end="\n\n")
    seconds = {name: median(each) for name, each in timings.seconds.items()}
    indices = _of_indices(sparse, args.rounds, clock)
    report = {"step": _ratios(timings), "seconds": seconds, "indices": indices} | _of_layers(args, sparse, clock)
    print(timing.setting(device))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="resnet50", help="of timm, or of this package")
    parser.add_argument("--kwargs", type=json.loads, default={}, help="further arguments of the model, as JSON")
    parser.add_argument("--classes", type=int, default=1000, help="of the classifier")
    parser.add_argument("--channels", type=int, default=3, help="of images")
    parser.add_argument("--rounds", type=int, default=5, help="times each step is measured")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--density", type=float, default=0.1, help="active weights over all weights")
    parser.add_argument("--distribution", default="erk", help="of the density over layers")
    parser.add_argument("--structure", default="unstructured", help="of the masks")
    parser.add_argument("--threads", type=int, default=1, help="of which the wall clock is taken if they are several")
    parser.add_argument("--wall", action="store_true", help="take the wall clock for one thread, too, beside several")
    parser.add_argument("--bf16", action="store_true", help="measure the dense step in bf16 as well")
    parser.add_argument("--no-layers", action="store_true", help="measure the whole step only")
    parser.add_argument(
        "--peers", action="store_true", help="measure layers of torch's CSR and of SparseProp (if installed) too"
    )
    parser.add_argument("--json", type=Path, help="a file for the ratios")
    return parser.parse_args()


def _trainee(args: argparse.Namespace, execute: Execute = lambda _model, _masks: None, **held: Any) -> Trainee:
    precision = Precision(device=torch.device("cpu"), **held)
    kwargs = {"num_classes": args.classes, "in_chans": args.channels, **args.kwargs}
    if args.model.startswith("resnet"):
        kwargs["zero_init_last"] = False
    keys = {"structure": args.structure, "distribution": args.distribution, "keep_dense": DENSE}
    create = lambda: timm.create_model(args.model, **kwargs)  # noqa: E731
    return build("static", args.density, precision, create=create, execute=execute, **keys)


def _step(trained: Trainee, images: Tensor, labels: Tensor, execution: Execution | None = None) -> Callable[[], None]:
    step = TrainStep(trained.engine, trained.method, execution)

    def run() -> None:
        step.forward_backward(1, images, labels)
        step.optimizer_step(1)

    return run


def _dense(args: argparse.Namespace, images: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """In both memory formats; the same masks."""
    trainees = {
        "dense, channels last": _trainee(args, name="fp32", channels_last=True),
        "dense, contiguous": _trainee(args, name="fp32", channels_last=False),
    }
    if args.bf16:
        trainees["dense, bf16"] = _trainee(args, name="bf16", channels_last=True)
    return {name: _step(trained, images, labels) for name, trained in trainees.items()}


def _sparse(args: argparse.Namespace, images: Tensor, *, packed: bool) -> "Sparse":
    """Each layer in its fastest way, also where the network as a whole gains nothing; its weights ``packed`` or masked."""
    made: dict[str, Any] = {}

    def execute(model: nn.Module, masks: Masks) -> PackedWeights | None:
        held = images.contiguous(memory_format=torch.channels_last)
        setting = Setting(
            compute="auto",
            channels_last=True,
            precision="fp32",
            shape=Size(images.shape),
            images=held[:2],
            step=lambda: model(held).square().mean().backward(),
            impossible="",
            pointless="",
            densities=[masks.densities()],
            final_masks=dict,
            tell=print,
        )
        layers, backend = layers_of(model, masks, setting.shape), compiled_backend(kernels())
        costs, _ = measured_costs(setting, model, backend, layers, masks)
        current = Current(backend, masks, choose := Fastest(backend, layers, costs, channels_last=True))
        prepare(model, current, setting.images)
        made.update(current=current, choose=choose, layers=layers)
        return PackedWeights(model, masks) if packed else None

    held = {"name": "fp32", "channels_last": True, "flattens_weights": True}  # images alone have their channels last
    return Sparse(_trainee(args, execute=execute, **held), **made)


class Sparse(NamedTuple):
    """A network that computes sparsely."""

    trained: Trainee
    current: Current
    choose: Fastest
    layers: Mapping[str, Layer]

    def kinds(self) -> list[MaskedLayer]:
        """The layers that are computed sparsely, one of each shape and input."""
        masks = self.current.layer_masks(self.current.masks)
        found = {
            self.layers[name].key: MaskedLayer(name=name, layer=self.layers[name], mask=masks[name], chosen=chosen)
            for name, chosen in reversed(self.current.chosen().items())
        }
        return list(reversed(found.values()))


def _of_indices(sparse: Sparse, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Measures and prints what the index structures of all layers take, which a mask update makes anew where masks change."""
    masks, chosen, ways = sparse.current.layer_masks(sparse.current.masks), sparse.current.chosen(), sparse.current.backend.ways
    seconds: list[float] = []
    made: list[Products] = []
    for _ in range(rounds):
        began = clock()
        made = [ways[each.way].products(masks[name], sparse.layers[name].geometry, 4) for name, each in chosen.items()]
        seconds.append(clock() - began)
    found = {
        "seconds": median(seconds),
        "bytes_per_active_weight": sum(each.index_bytes for each in made) / max(1, sum(masks[name].active for name in chosen)),
    }
    print(
        f"index structures of {len(chosen)} layers: {1000 * found['seconds']:.0f} ms, "
        f"{found['bytes_per_active_weight']:.1f} bytes an active weight",
        end="\n\n",
    )
    return found


def _of_layers(args: argparse.Namespace, sparse: Sparse, clock: Callable[[], float]) -> dict[str, Any]:
    """Measures and prints the tables of layers."""
    if args.no_layers:
        return {}
    gc.freeze()  # else collecting what the networks hold takes longer than a layer
    kinds, backend = sparse.kinds(), sparse.current.backend
    peak, rows = layer_passes.peak(args.rounds, clock), layer_passes.measure(kinds, backend, args.rounds, clock)
    print(layer_passes.table(rows, peak), end="\n\n")
    found = {"peak_gflops": peak / 1e9, "layers": rows}
    if args.peers:
        found["peers"] = layer_passes.measure_peers(kinds, backend, args.rounds, clock)
        print(layer_passes.peer_table(found["peers"]), end="\n\n")
    return found


def _fastest(timings: timing.Timings) -> list[str]:
    """The memory format in which the dense step is faster."""
    return [min(("dense, channels last", "dense, contiguous"), key=lambda name: median(timings.seconds[name]))]


def _ratios(timings: timing.Timings) -> dict[str, float]:
    """Over the dense step in its faster memory format, and over bf16 if that was measured."""
    dense, packed = _fastest(timings)[0], "sparse and packed, fp32"
    ratios = {
        "sparse_over_dense": median(timings.ratios("sparse, fp32", dense)),
        "packed_over_dense": median(timings.ratios(packed, dense)),
        "packed_over_masked": median(timings.ratios(packed, "sparse, fp32")),
    }
    if "dense, bf16" in timings.seconds:
        ratios["sparse_over_dense_bf16"] = median(timings.ratios("sparse, fp32", "dense, bf16"))
    return ratios


if __name__ == "__main__":
    main()
