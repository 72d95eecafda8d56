"""Images a second of a whole training step of ResNet-50, against a bare dense loop of timm and PyTorch, and where time goes.

    python -m benchmarks.throughput                                      on the CPU; the same photographs again and again
    torchrun --nproc-per-node=2 -m benchmarks.throughput                 with an exchange between ranks
    python -m benchmarks.throughput --synthetic --device cuda --batch 256 --precision bf16 --channels-last --compile

Both loops read the same files with as many workers and take turns, a round of some steps each. A round's first batch is not
timed: real epochs are longer than the start of an iterator. Each round holds one mask update, which counts as one step of 100.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import torch

from benchmarks import timing
from benchmarks.data import write_images
from benchmarks.loops import Bare, Clock, Ours, Step
from dist_sparse import distributed
from dist_sparse.config import Config, load_config, with_values
from dist_sparse.data import Batch

UPDATE_INTERVAL = 100
"""Steps between two mask updates in the figures: RigL's default."""
PARTS = ("loader", "forward", "backward and exchange", "masks", "optimizer")


def main() -> None:
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        if args.input is None:
            args.input = str(Path(scratch) / "images")
            write_images(Path(args.input), args.images)
        _measure(args, Path(scratch))
    distributed.stop()


def _measure(args: argparse.Namespace, scratch: Path) -> None:
    config = _config(args)
    ranks = distributed.start(config.engine)
    if ranks.device.type == "cpu":
        torch.set_num_threads(1)
    clock = _clock(ranks.device)
    synthetic = _synthetic(args, ranks.device) if args.synthetic else None
    ours = Ours(config, scratch / "ours", synthetic, args.steps, clock)
    bare = Bare(args, config, synthetic, clock, classes=ours.trainer.data.info.classes)
    rounds = _take_turns(bare, ours, args.rounds)
    fixed = with_values(config, {"sparsity.method": "static"})
    detailed = Ours(fixed, scratch / "detailed", synthetic, args.steps, clock, detail=True)
    detailed.round()
    detailed.watch.seconds.clear()
    steps = detailed.round()
    if ranks.is_first:
        print(_speeds(rounds, args.batch * ranks.world_size), end="\n\n")
        print(_shares(steps, detailed.watch.seconds), end="\n\n")
        print(f"{timing.setting(ranks.device)}; ranks: {ranks.world_size}")


def _take_turns(bare: Bare, ours: Ours, rounds: int) -> list[tuple[list[float], list[Step]]]:
    """Steps of the bare loop and of ours by round, after one round of warm-up; who begins alternates."""
    results = []
    for number in range(-1, rounds):
        if number % 2:
            dense, sparse = bare.round(), ours.round()
        else:
            sparse, dense = ours.round(), bare.round()
        if number >= 0:
            results.append((dense, sparse))
    return results


def _speeds(rounds: list[tuple[list[float], list[Step]]], images: int) -> str:
    """Medians over rounds."""
    dense = [median(steps) for steps, _ in rounds]
    plain = [median(step.total for step in steps if not step.moved) for _, steps in rounds]
    update = median([step.total for _, steps in rounds for step in steps if step.moved] or plain) - median(plain)
    ours = [seconds + update / UPDATE_INTERVAL for seconds in plain]
    wait = median(sum(step.wait for step in steps) / sum(step.total for step in steps) for _, steps in rounds)
    ratio = median(mine / base for mine, base in zip(ours, dense, strict=True))
    rows = [
        ("loop", "ms a step", "images a second", "time / bare dense", "loader's wait"),
        ("---", "---:", "---:", "---:", "---:"),
        ("bare dense (timm, PyTorch)", f"{1e3 * median(dense):.1f}", f"{images / median(dense):.1f}", "1.000", ""),
        ("dist_sparse, masks on", f"{1e3 * median(ours):.1f}", f"{images / median(ours):.1f}", f"{ratio:.3f}", f"{wait:.1%}"),
    ]
    return (
        _table(rows)
        + f"\n\nA mask update adds {1e3 * update:.0f} ms, {update / UPDATE_INTERVAL / median(ours):.2%} of the time."
    )


def _shares(steps: list[Step], seconds: dict[str, float]) -> str:
    """Shares of the time of one round of steps without a mask update."""
    total = sum(step.total for step in steps)
    parts = {**seconds, "loader": sum(step.wait for step in steps)}
    parts["backward and exchange"] = parts.pop("forward and backward") - parts["forward"]
    shares = [parts[name] / total for name in PARTS]
    return _table([(*PARTS, "the rest"), ["---:"] * (len(PARTS) + 1), [f"{share:.1%}" for share in (*shares, 1 - sum(shares))]])


def _table(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _config(args: argparse.Namespace) -> Config:
    world_size = distributed.start(load_config(None, {"engine.device": args.device}).engine).world_size
    return load_config(
        None,
        {
            "data.name": "image_folder",
            "data.root": args.input,
            "data.workers": args.workers,
            "data.image_size": args.size,
            "data.resize": max(256, args.size),
            "model.name": "resnet50",
            "train.batch_size": args.batch * world_size,
            "train.epochs": 10_000,
            "train.precision": args.precision,
            "train.channels_last": args.channels_last,
            "train.compile": args.compile,
            "train.label_smoothing": 0.1,
            "optim.weight_decay": 1e-4,
            "sparsity.method": args.method,
            "sparsity.density": args.density,
            "sparsity.update.interval": args.steps,
            "engine.device": args.device,
            "tracking.wandb": "disabled",
        },
    )


def _clock(device: torch.device) -> Clock:
    """The wall clock: the loader's processes and the exchange count as well."""
    return timing.clock_for(device) if device.type == "cuda" else time.perf_counter


def _synthetic(args: argparse.Namespace, device: torch.device) -> Batch:
    """One batch on the device, as a loader would hand it over."""
    images = torch.rand(args.batch, 3, args.size, args.size, device=device)
    # The networks have as many classes as the folder, even where its images are not looked at.
    classes = sum(folder.is_dir() for folder in (Path(args.input) / "train").iterdir())
    labels = torch.randint(max(classes, 1), (args.batch,), device=device)
    return Batch(images, labels, torch.arange(args.batch, device=device))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="image folder with train/ and val/; default: JPEG files of photographs, made at once")
    parser.add_argument("--images", type=int, default=400, help="files that are made")
    parser.add_argument("--synthetic", action="store_true", help="one batch on the device, in place of the loader's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="timed steps a round")
    parser.add_argument("--batch", type=int, default=16, help="images a step and rank")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--workers", type=int, default=1, help="loader processes, or threads of DALI")
    parser.add_argument("--method", default="rigl")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--channels-last", action="store_true", help="NHWC memory format")
    parser.add_argument("--compile", action="store_true", help="torch.compile, both loops")
    return parser.parse_args()


if __name__ == "__main__":
    main()
