"""The largest batch, a power of two, with which a training step of ResNet-50 fits the memory of a GPU: prints the number alone.

python -m benchmarks.fill --device cuda --precision bf16 --channels-last
"""

import argparse
import gc
from collections.abc import Callable

import torch

from benchmarks.resnet50 import build, start
from dist_sparse.engines.precision import Precision
from dist_sparse.step import TrainStep


def main() -> None:
    args = _arguments()
    device = start(args.device)
    precision = Precision(name=args.precision, device=device, channels_last=args.channels_last)
    print(largest(lambda batch: _step(precision, batch, args.size), args.most))


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest power of two up to ``most`` that fits; 1 if not even 2 does (batch norm needs two images)."""
    batch = 1
    while 2 * batch <= most and fits(2 * batch):
        batch *= 2
    return batch


def _step(precision: Precision, batch: int, size: int) -> bool:
    """Make two steps, since the optimizer's state comes with the first, and tell whether there was room for them."""
    try:
        trainee = build("static", 0.1, precision)
        step = TrainStep(trainee.engine, trainee.method)
        images = torch.rand(batch, 3, size, size, device=precision.device)
        labels = torch.randint(1000, (batch,), device=precision.device)
        for _ in range(2):
            step.forward_backward(1, images, labels)
            step.optimizer_step(1)
    except torch.OutOfMemoryError:
        return False
    finally:
        trainee = step = None
        gc.collect()
        if precision.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--most", type=int, default=1024, help="largest batch to try")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory format")
    return parser.parse_args()


if __name__ == "__main__":
    main()
