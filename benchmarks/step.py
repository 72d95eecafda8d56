"""What masking costs a training step of ResNet-50, against the same step without masks: here and as others do it."""

import argparse
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks import timing
from benchmarks.peers import GraNet, RiglTorch, Sparsimony
from benchmarks.resnet50 import Trainee, build, start
from dist_sparse.engines.precision import Precision
from dist_sparse.step import TrainStep

Candidates = dict[str, Callable[[], object]]


def main() -> None:
    args = _arguments()
    device = start(args.device)
    timing.pin(device)
    precision = Precision(name=args.precision, device=device, channels_last=args.channels_last)
    images = torch.rand(args.batch, 3, args.size, args.size, device=device)
    labels = torch.randint(1000, (args.batch,), device=device)
    clock = timing.clock_for(device)

    steps = _steps(args.density, precision, images, labels)
    title = f"training step, batch {args.batch} at {args.size} x {args.size}, {args.precision}, density {args.density}"
    print(timing.interleaved(steps, args.rounds, clock=clock).table(title), end="\n\n")

    timings = timing.interleaved(_multiplications(args.density, precision), 3 * args.rounds, clock=clock)
    print(timings.table("mask all gradients once"), end="\n\n")
    print(timing.setting(device))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="times each step is measured")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--size", type=int, default=160, help="side of the images in pixels")
    parser.add_argument("--density", type=float, default=0.1, help="active weights over all weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory format")
    return parser.parse_args()


def _steps(density: float, precision: Precision, images: Tensor, labels: Tensor) -> Candidates:
    """Dense first. All have the same engine and optimizer, and a network of their own."""

    def step(trainee: Trainee, after_step: Callable[[], None] = lambda: None) -> Callable[[], None]:
        train_step = TrainStep(trainee.engine, trainee.method)

        def run() -> None:
            train_step.forward_backward(1, images, labels)
            train_step.optimizer_step(1)
            after_step()

        return run

    ours = build("static", density, precision)
    masks = ours.masks()
    granet, rigl_torch = (build("dense", density, precision) for _ in range(2))
    parametrization = Sparsimony(masks)
    sparsimony = build("dense", density, precision, adapt=parametrization.attach)
    return {
        "dense": step(build("dense", density, precision)),
        "dist_sparse": step(ours),
        "GraNet": step(granet, GraNet(granet.weights, granet.optimizer, masks).after_step),
        "rigl-torch": step(rigl_torch, RiglTorch(rigl_torch.weights, rigl_torch.optimizer, masks).after_step),
        "sparsimony": step(sparsimony, lambda: parametrization.after_step(sparsimony.optimizer)),
    }


def _multiplications(density: float, precision: Precision) -> Candidates:
    """One multi-tensor product with masks of either type."""
    trainee = build("static", density, precision)
    grads = [torch.rand_like(weight) for weight in trainee.weights.values()]
    masks = trainee.masks()

    def multiply(multipliers: Mapping[str, Tensor]) -> Callable[[], object]:
        tensors = list(multipliers.values())
        return lambda: torch._foreach_mul_(grads, tensors)

    typed = {name: mask.to(grads[0].dtype) for name, mask in masks.items()}
    return {"masks in the gradient's type": multiply(typed), "bool masks": multiply(masks)}


if __name__ == "__main__":
    main()
