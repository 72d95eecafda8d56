"""A training step of ResNet-50 that multiplies by active weights alone, against the same step with masked dense matrices."""

import argparse
import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.resnet50 import Trainee, build, start
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.prepare import prepare
from dist_sparse.step import TrainStep

DENSE = ("first", "last")
"""Stem and classifier have no masks."""


def main() -> None:
    args = _arguments()
    device = start("cpu")
    timing.pin(device)
    keep_memory()
    images, labels = torch.rand(args.batch, 3, args.size, args.size), torch.randint(1000, (args.batch,))
    timings = timing.interleaved(_steps(args, images, labels), args.rounds, clock=timing.clock_for(device))
    title = f"training step, batch {args.batch} at {args.size} x {args.size}, {args.structure}, density {args.density}"
    print(timings.table(title), end="\n\n")
    print(timing.setting(device))
    if args.json:
        ratios = {"sparse_over_dense": median(timings.ratios("sparse, fp32", "dense, fp32"))}
        if args.bf16:
            ratios["sparse_over_dense_bf16"] = median(timings.ratios("sparse, fp32", "dense, bf16"))
        args.json.write_text(json.dumps({"step": ratios}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each step is measured")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--density", type=float, default=0.1, help="active weights over all weights")
    parser.add_argument("--distribution", default="erk", help="of the density over layers")
    parser.add_argument("--structure", default="unstructured", help="of the masks")
    parser.add_argument("--bf16", action="store_true", help="measure the dense step in bf16 as well")
    parser.add_argument("--json", type=Path, help="a file for the ratios")
    return parser.parse_args()


def keep_memory() -> None:
    """Let the C library keep memory that is given back: else each large result, dense or sparse, costs page faults."""
    malloc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3
    for option in (trim_threshold, mmap_threshold):
        malloc.mallopt(option, 1 << 30)


def _steps(args: argparse.Namespace, images: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Dense first, in its faster memory format; networks, masks and optimizers are the same."""

    def trainee(precision: str, *, channels_last: bool) -> Trainee:
        held = Precision(name=precision, device=torch.device("cpu"), channels_last=channels_last)  # type: ignore[arg-type]
        keys = {"structure": args.structure, "distribution": args.distribution}
        return build("static", args.density, held, keep_dense=DENSE, **keys)

    def step(trained: Trainee) -> Callable[[], None]:
        train_step = TrainStep(trained.engine, trained.method)

        def run() -> None:
            train_step.forward_backward(1, images, labels)
            train_step.optimizer_step(1)

        return run

    sparse = trainee("fp32", channels_last=True)
    prepare(sparse.model, sparse.method.masks, kernels(), images[:2])
    steps = {"dense, fp32": step(trainee("fp32", channels_last=True)), "sparse, fp32": step(sparse)}
    return steps | {"dense, bf16": step(trainee("bf16", channels_last=True))} if args.bf16 else steps


if __name__ == "__main__":
    main()
