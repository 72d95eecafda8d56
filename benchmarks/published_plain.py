"""SNIP and RigL on LeNet-300-100 and MNIST in plain PyTorch, without this package: a second opinion on our errors.

    python -m benchmarks.published_plain snip --data-root DIR [--density D] [--redraw] [--momentum M] [--weight-decay W] ...

It follows the papers and their authors' code as configs/mnist does, from weights and draws of its own, and prints the error on
the test images at the end, and the least one of the last ten thousand steps and of all, looked at every thousand steps: SNIP's
code reports the least of its last ten checkpoints. A run takes two to nine minutes of a core.
"""

import argparse
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, relu

from benchmarks.study.numbers import count, density

SIZES = ((300, 784), (100, 300), (10, 100))
BATCH, LOOKED_AT = 100, 1000
RIGL_DENSITIES, RIGL_INTERVAL, RIGL_END, RIGL_DROP = (0.01, 0.109, 1.0), 100, 50_000, 0.3
TRUNCATED = 0.87962566
"""The standard deviation of a standard normal that is cut off at twice its own."""


def read(root: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Images from 0 to 1 [N, 784], and labels [N]."""
    folder = root / "MNIST" / "raw"
    images = _bytes(folder / f"{kind}-images-idx3-ubyte")[16:].reshape(-1, 784)
    labels = _bytes(folder / f"{kind}-labels-idx1-ubyte")[8:]
    return torch.tensor(images).float() / 255, torch.tensor(labels).long()


def _bytes(file: Path) -> np.ndarray:
    """The bytes of the file, or of its gzipped form."""
    gzipped = file.with_name(f"{file.name}.gz")
    if not (file.exists() or gzipped.exists()):
        raise SystemExit(f"error: no {file}, gzipped or not; --data-root should be the folder that holds MNIST/raw")
    return np.frombuffer(file.read_bytes() if file.exists() else gzip.decompress(gzipped.read_bytes()), dtype=np.uint8)


def draw(kind: str) -> list[Tensor]:
    """Weights of the three layers: Glorot's, normal or uniform, or as SNIP's code has them (truncated normal by fan-in)."""
    weights = [torch.empty(size) for size in SIZES]
    for weight in weights:
        deviation = weight.shape[1] ** -0.5 / TRUNCATED
        if kind == "glorot":
            torch.nn.init.xavier_normal_(weight)
        elif kind == "glorot_uniform":
            torch.nn.init.xavier_uniform_(weight)
        else:
            torch.nn.init.trunc_normal_(weight, 0, deviation, -2 * deviation, 2 * deviation)
    return weights


def forward(images: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    hidden = relu(linear(relu(linear(images, weights[0], biases[0])), weights[1], biases[1]))
    return linear(hidden, weights[2], biases[2])


def snip_masks(weights: list[Tensor], gradients: Sequence[Tensor], density: float) -> list[Tensor]:
    """The share of largest |w g| over all layers."""
    scores = [(weight * gradient).abs().detach() for weight, gradient in zip(weights, gradients, strict=True)]
    together = torch.cat([score.flatten() for score in scores])
    threshold = together.topk(round(density * len(together))).values[-1]
    return [(score >= threshold).float() for score in scores]


def random_masks(weights: list[Tensor]) -> list[Tensor]:
    masks = [torch.zeros_like(weight) for weight in weights]
    for mask, share in zip(masks, RIGL_DENSITIES, strict=True):
        mask.view(-1)[torch.randperm(mask.numel())[: round(share * mask.numel())]] = 1
    return masks


@torch.no_grad()
def rigl_update(weight: Tensor, mask: Tensor, gradient: Tensor, velocity: Tensor, fraction: float) -> None:
    """Drop the smallest weights and grow by the largest gradients, in place."""
    active, before = int(mask.sum()), mask.flatten().clone()
    dropped = int(fraction * active)
    kept = (weight.abs() * mask + mask * 1e-12).flatten().topk(active - dropped).indices
    score = gradient.abs().flatten()
    score[kept] = -1
    grown = score.topk(dropped).indices
    mask.zero_()
    mask.view(-1)[torch.cat([kept, grown])] = 1
    fresh = grown[before[grown] == 0]
    for tensor in (weight, velocity):
        tensor.view(-1)[fresh] = 0
        tensor.mul_(mask)


def train(args: argparse.Namespace) -> list[float]:
    """The errors in percent, every thousand steps."""
    rigl = args.method == "rigl"
    images, labels = read(args.data_root, "train")
    test_images, test_labels = read(args.data_root, "t10k")
    order = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    if not rigl:
        mean, deviation = images.mean(), images.std()
        images, test_images = (images - mean) / deviation, (test_images - mean) / deviation
    used = torch.randperm(len(images), generator=order)[: len(images) if rigl else len(images) * 9 // 10]
    images, labels = images[used], labels[used]
    weights = draw(args.init)
    biases = [torch.zeros(len(weight)) for weight in weights]
    parameters = [parameter.requires_grad_() for parameter in (*weights, *biases)]
    masks = random_masks(weights) if rigl else [torch.ones_like(weight) for weight in weights]
    if args.method == "snip":
        first = torch.randperm(len(images), generator=order)[:BATCH]
        loss = cross_entropy(forward(images[first], weights, biases), labels[first])
        masks = snip_masks(weights, torch.autograd.grad(loss, weights), args.density)
    again = draw(args.init) if args.redraw else weights
    with torch.no_grad():
        for weight, mask, drawn in zip(weights, masks, again, strict=True):
            weight.copy_(drawn * mask)
    velocities, errors, step = [torch.zeros_like(parameter) for parameter in parameters], [], 0
    while step < args.steps:
        for batch in torch.randperm(len(images), generator=order).split(BATCH)[: args.steps - step]:
            loss = cross_entropy(forward(images[batch], weights, biases), labels[batch])
            gradients = torch.autograd.grad(loss, parameters)
            if rigl and step % RIGL_INTERVAL == 0 and 0 < step <= RIGL_END:
                fraction = RIGL_DROP / 2 * (1 + math.cos(math.pi * step / RIGL_END))
                for layer in range(2):
                    rigl_update(weights[layer], masks[layer], gradients[layer], velocities[layer], fraction)
            else:
                rate = 0.2 / 3 ** sum(step >= end for end in (45_000, 57_000)) if rigl else 0.1 * 0.1 ** (step // 25_000)
                _step(parameters, gradients, velocities, masks, rate, args, nesterov=rigl)
            step += 1
            if step % LOOKED_AT == 0 or step == args.steps:
                with torch.no_grad():
                    wrong = forward(test_images, weights, biases).argmax(1) != test_labels
                errors.append(100 * wrong.float().mean().item())
    return errors


@torch.no_grad()
def _step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    velocities: Sequence[Tensor],
    masks: Sequence[Tensor],
    rate: float,
    args: argparse.Namespace,
    *,
    nesterov: bool,
) -> None:
    """SGD with momentum; weights decay, biases do not."""
    for number, (parameter, gradient, velocity) in enumerate(zip(parameters, gradients, velocities, strict=True)):
        if number < len(masks):
            gradient = (gradient + args.weight_decay * parameter) * masks[number]
        velocity.mul_(args.momentum).add_(gradient)
        parameter.sub_(rate * (gradient + args.momentum * velocity if nesterov else velocity))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_plain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("method", choices=("dense", "snip", "rigl"))
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="as data.root")
    parser.add_argument("--density", type=density, default=0.05, help="of snip")
    parser.add_argument(
        "--init", choices=("glorot", "glorot_uniform", "fan_in"), help="default: glorot, of rigl glorot_uniform"
    )
    parser.add_argument("--redraw", action="store_true", help="draw the weights anew once the masks are chosen")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, help="default: 5e-4, of rigl 1e-4")
    parser.add_argument("--steps", type=count, help="default: 54,000, of rigl 120,000")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rigl = args.method == "rigl"
    args.init = args.init or ("glorot_uniform" if rigl else "glorot")
    args.weight_decay = (1e-4 if rigl else 5e-4) if args.weight_decay is None else args.weight_decay
    args.steps = args.steps or (120_000 if rigl else 54_000)
    torch.set_num_threads(1)
    errors = train(args)
    print(
        f"error {errors[-1]:.2f} %, least of the last ten thousand steps {min(errors[-10:]):.2f} %, of all {min(errors):.2f} %"
    )


if __name__ == "__main__":
    main()
