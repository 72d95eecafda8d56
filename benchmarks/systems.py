"""Runs of the four systems that began as research code, computed sparsely and densely: their wall times and accuracies.

    python -m benchmarks.systems [--seeds 1 2 3] [--epochs 2] [--images 12800] [--data-root DIR] [--records DIR]

Each run is the command that a user would give, in a process of its own with one thread; the two ways take turns. A wall time
is that of the whole process with loading and validation; the table has the median of the seeds, since the first run on a
machine measures its layers. Finished runs are kept and not made again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch

from benchmarks.timing import setting

ROOT = Path(__file__).parents[1]
SYSTEMS: Mapping[str, str] = {
    "MEST, block:4x1": "mest_em_block",
    "GraNet": "granet",
    "shuffled blocks (SSB)": "ssb",
    "AST": "ast",
}
"""Configurations of Fashion-MNIST."""
WAYS = ("auto", "dense")
SHORT = {"scheduler.warmup": 0, "sparsity.update.interval": 20}
"""A short run has no time for a warm-up, nor for updates as rare as those of the shipped recipe."""


def main() -> None:
    args = _arguments()
    args.records.mkdir(parents=True, exist_ok=True)
    print("| system | wall time, s: auto | dense | auto / dense | s a step: auto | dense | top-1, %: auto | dense |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for system, config in SYSTEMS.items():
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for seed in args.seeds:
            for way in WAYS:
                runs[way].append(_run(args, config, way, seed))
        print(_row(system, runs), flush=True)
    print(f"\n{setting(torch.device('cpu'))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=12800, help="of the 60,000 to train with")
    parser.add_argument("--data-root", default="/usr/share/datasets/fashion-mnist", help="where Debian's package has them")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "records" / "systems")
    return parser.parse_args()


def _run(args: argparse.Namespace, config: str, way: str, seed: int) -> dict[str, Any]:
    """What came of a run: read if it was made before."""
    record = args.records / f"{config}-{args.epochs}x{args.images}-{way}-{seed}.json"
    if record.exists():
        return json.loads(record.read_text())
    with tempfile.TemporaryDirectory() as folder:
        keys = {"seed": seed, "execution.compute": way, "train.epochs": args.epochs, "train.validate_every": args.epochs}
        keys |= {"data.limit": args.images, "data.root": args.data_root, "output": folder, "tracking.wandb": "disabled"} | SHORT
        if config == "ssb":
            del keys["sparsity.update.interval"]  # its masks stay
        command = [sys.executable, "-m", "dist_sparse.train", f"--config=configs/fashion_mnist/{config}.yaml"]
        started = time.perf_counter()
        subprocess.run(
            [*command, *(f"--{key}={value}" for key, value in keys.items())],
            check=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - started
        summary = json.loads(Path(folder, "summary.json").read_text())
    names = ("last_top1", "seconds_per_step", "flops_saved", "density")
    made = {"seconds": round(seconds, 2)} | {name: summary[name] for name in names}
    record.write_text(json.dumps(made) + "\n")
    return made


def _row(system: str, runs: Mapping[str, list[dict[str, Any]]]) -> str:
    def medians(name: str) -> list[float]:
        return [median(run[name] for run in runs[way]) for way in WAYS]

    auto, dense = medians("seconds")
    ratio = median(a["seconds"] / d["seconds"] for a, d in zip(runs["auto"], runs["dense"], strict=True))
    steps = (f"{seconds:.3f}" for seconds in medians("seconds_per_step"))
    cells = [system, f"{auto:.1f}", f"{dense:.1f}", f"{ratio:.2f}", *steps, *(_accuracy(runs[way]) for way in WAYS)]
    return f"| {' | '.join(cells)} |"


def _accuracy(runs: list[dict[str, Any]]) -> str:
    values = [100 * run["last_top1"] for run in runs]
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    main()
