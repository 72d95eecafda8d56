"""Images a second of the data loaders, from the same JPEG files to normalised batches."""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks import timing
from dist_sparse.config.data import DataConfig
from dist_sparse.data import Loading, build_data
from dist_sparse.data.batch import Normalise
from dist_sparse.data.normalisation import IMAGENET_MEAN, IMAGENET_STD

SIDES = ((500, 375), (375, 500), (500, 333), (333, 500), (500, 500), (480, 360))
"""Widths and heights that are frequent in ImageNet."""
QUALITY = 95
"""The quality of the JPEGs, so that they have about the 110 kB of ImageNet's."""
BASE = "torchvision's ImageFolder"


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        kilobytes = write_images(root, args.images) / 1000
        candidates = {
            BASE: _torchvision(root, args),
            "data.backend=torchvision": _ours(root, args, "torchvision"),
            "data.backend=dali": _ours(root, args, "dali"),
        }
        what = f"{args.images} JPEGs of {kilobytes:.0f} kB to {args.size} x {args.size} with {args.workers} workers"
        for clock, name in ((time.perf_counter, "wall time"), (cpu_seconds, "processor time")):
            timings = timing.interleaved(candidates, args.rounds, clock=clock)
            print(timings.table(f"{name}: {what}"), end="\n\n")
            speeds = [f"{key} {args.images / median(seconds):.0f}" for key, seconds in timings.seconds.items()]
            print(f"images a second of {name}: {', '.join(speeds)}", end="\n\n")
    print(timing.setting(torch.device("cpu")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="passes over all images of each loader")
    parser.add_argument("--images", type=int, default=320, help="JPEG files")
    parser.add_argument("--batch", type=int, default=32, help="images a batch; must divide --images")
    parser.add_argument("--size", type=int, default=224, help="side of the images that come out, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="worker processes of torchvision, threads of DALI")
    args = parser.parse_args()
    if args.images % args.batch:
        parser.error(f"--images={args.images} does not divide by --batch={args.batch}")
    return args


def write_images(root: Path, count: int) -> float:
    """JPEG files cut out of the 20 ImageNet photographs in the foolbox wheel, in two classes; returns their mean bytes.

    Each shows another part of two neighbouring photographs, at full resolution: enlarged ones would decode too fast.
    """
    from tests.photos import imagenet_files

    photos = [np.asarray(Image.open(path).convert("RGB")) for path in imagenet_files()]
    draw, sizes = np.random.default_rng(0), []
    for number in range(count):
        first, second = photos[number % 20], photos[(number + 1) % 20]
        shared = min(len(first), len(second))
        pair = np.concatenate([first[:shared], second[:shared]], axis=1)
        width, height = SIDES[number % len(SIDES)]
        assert height <= shared
        assert width <= pair.shape[1]
        top, left = draw.integers(0, pair.shape[0] - height + 1), draw.integers(0, pair.shape[1] - width + 1)
        for split in ("train", "val"):
            path = root / split / ("even", "odd")[number % 2] / f"{number:05d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            if split == "train" or number < 2:
                Image.fromarray(pair[top : top + height, left : left + width]).save(path, quality=QUALITY)
        sizes.append((root / "train" / ("even", "odd")[number % 2] / f"{number:05d}.JPEG").stat().st_size)
    return float(np.mean(sizes))


def _ours(root: Path, args: argparse.Namespace, backend: str) -> Callable[[], None]:
    loading = Loading(
        batch_size=args.batch,
        accumulation=1,
        eval_batch_size=args.batch,
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        seed=0,
    )
    config = DataConfig(name="image_folder", root=str(root), backend=backend, image_size=args.size, workers=args.workers)
    data = build_data(config, loading)
    return lambda: _consume((batch.images for batch in data.train.epoch(0)), args)


def _torchvision(root: Path, args: argparse.Namespace) -> Callable[[], None]:
    """As in torchvision's classification reference: its data set, its transforms, PyTorch's DataLoader."""
    transform = v2.Compose([v2.RandomResizedCrop(args.size), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    loader = DataLoader(
        ImageFolder(str(root / "train"), transform),
        batch_size=args.batch,
        shuffle=True,
        num_workers=args.workers,
        persistent_workers=args.workers > 0,
    )
    normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    return lambda: _consume((normalise(images) for images, _ in loader), args)


def _consume(batches: Iterator[Tensor], args: argparse.Namespace) -> None:
    count = 0
    for images in batches:
        assert images.shape[1:] == (3, args.size, args.size)
        count += len(images)
    assert count == args.images


def cpu_seconds() -> float:
    """Processor time of this process, its threads and its workers: what counts where all cores are busy with loading."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
