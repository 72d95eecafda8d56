"""Train every method, and every structure under five methods, and print one table of what each reached and cost.

    python -m benchmarks.methods [--data digits] [--densities 0.1 0.05] [--seeds 0 1 2] [--only CASE ...] [--plot FILE]

Each case is a shipped configuration of the data set with a few keys changed (``CASES``), trained on one process with one
thread. Every finished run is a line of ``runs.csv`` in ``--records``, and a run that is there already is not made again.
``--plot`` draws the accuracy over the density that was reached.
"""

import argparse
import csv
import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from math import nan
from pathlib import Path
from statistics import mean, stdev
from typing import get_type_hints

import torch

from benchmarks.figure import Point, draw
from benchmarks.timing import setting

ROOT = Path(__file__).parents[1]
UNIFORM = {"sparsity.distribution": "uniform"}
STRUCTURED = ("block:4x1", "fan_in", "nm", "kernel", "kernel_per_filter", "pattern", "channel", "filter")
UNDER = {
    "static": ("static", {}),
    "rigl": ("rigl", {}),
    "gmp_uniform": ("gmp", {"sparsity.method": "gmp_uniform"}),
    "granet_uniform": ("granet", {"sparsity.method": "granet_uniform"}),
    "mest EM": ("mest_em", {}),
}
"""Methods that every structure is tried under: configuration and changed keys."""
ITOP = {"sparsity.update.form": "itop", "sparsity.update.drop_fraction": 0.5, "sparsity.update.end": "100%"}
CASES: dict[str, tuple[str, Mapping[str, object]]] = {
    "dense": ("dense", {}),
    "static": ("static", {}),
    "static, SNIP masks": ("snip", {}),
    "set": ("set", {}),
    "set, ITOP form": ("set", ITOP),
    "rigl": ("rigl", {}),
    "rigl, ITOP form": ("rigl", ITOP),
    "snfs": ("snfs", {}),
    "gmp": ("gmp", {}),
    "gmp_uniform": ("gmp", {"sparsity.method": "gmp_uniform"}),
    "granet": ("granet", {}),
    "granet from 0.5": ("granet_05", {}),
    "granet_uniform": ("granet", {"sparsity.method": "granet_uniform"}),
    "mest EM": ("mest_em", {}),
    "mest EM&S": ("mest_ems", {}),
    "ast, sparsest of two": ("ast", {}),
    "shuffled_block, dynamic (DSB)": ("dsb", {}),
    "shuffled_block, static (SSB)": ("ssb", {}),
    "srste": ("srste", {}),
    **{f"{method} / {structure}": case for structure in STRUCTURED for method, case in UNDER.items()},
}
for _case in (
    "gmp_uniform / pattern",  # begins dense, and patterns hold 4/9 of the weights
    "mest EM / nm",  # one weight in a group leaves nothing to mutate
):
    del CASES[_case]
"""Label, configuration and changed keys; a structure stands after a slash."""

COLUMNS = ["density", "average density", "inference FLOPs", "training FLOPs", "time"]
"""After the accuracies; the costs relative to dense."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: what was asked for, and what came of it."""

    data: str
    case: str
    density: float
    seed: int
    epochs: int
    top1: float = 0.0
    active_density: float = 0.0
    mean_density: float = 0.0
    inference_flops: float = 0.0
    train_flops: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, float, int, int]:
        return self.data, self.case, self.density, self.seed, self.epochs


def settings(case: str, density: float) -> dict[str, object]:
    """The keys that a case changes in its configuration at a density."""
    name, structure = case.partition(" / ")[::2]
    changed = dict(CASES[case][1])
    if name == "dense":
        return changed
    if structure == "nm" or name == "srste":
        kept = f"nm:1:{8 if density >= 0.1 else 16}"
        return changed | {"sparsity.structure": kept, "sparsity.density": None, "sparsity.distribution": None}
    if name.startswith("ast"):
        return changed | {"sparsity.ast.densities": [2 * density, density]}
    if name.startswith("mest"):
        changed["sparsity.update.interval"] = "1 epochs"
        bounds = {"EM": ([0.8, 0.9, 1], [1, 1, 1]), "EM&S": ([1, 1, 1], [1.5, 1.25, 1])}[name.split()[1]]
        for key, factors in zip(("keep", "grow_to"), bounds, strict=True):
            changed[f"sparsity.mest.{key}"] = [round(factor * density, 6) for factor in factors]
    if structure:
        changed |= {"sparsity.structure": structure, **UNIFORM}
    if structure == "pattern" and name == "granet_uniform":
        changed["sparsity.ramp.initial_density"] = 0.44
    return changed | {"sparsity.density": density}


def train(run: Run) -> Run:
    """Make a run, in a process of its own and with one thread."""

    from dist_sparse.config import load_config
    from dist_sparse.run import train

    torch.set_num_threads(1)
    keys = settings(run.case, run.density)
    if "/" in run.case or run.case == "srste":  # what no structure fits
        keys["sparsity.keep_dense"] = ["first", "last", "*.downsample.*"]
    with tempfile.TemporaryDirectory() as folder:
        keys |= {"seed": run.seed, "train.epochs": run.epochs, "train.validate_every": run.epochs, "output": folder}
        keys |= {"tracking.wandb": "disabled", "checkpoint.every": "100%"}
        path = ROOT / "configs" / run.data / f"{CASES[run.case][0]}.yaml"
        config = load_config(str(path), [f"--{key}={value}" for key, value in keys.items()])
        started = time.process_time()
        summary = train(config)
    return Run(
        **{name: getattr(run, name) for name in ("data", "case", "density", "seed", "epochs")},
        top1=summary["last_top1"],
        active_density=summary["density"],
        mean_density=summary["mean_density"],
        inference_flops=summary["inference_flops_relative"],
        train_flops=summary["train_flops_relative"],
        cpu_seconds=time.process_time() - started,
    )


def read(path: Path) -> list[Run]:
    """The runs of a record."""
    if not path.exists():
        return []
    types = get_type_hints(Run)
    with path.open(newline="") as file:
        return [Run(**{name: types[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def append(path: Path, run: Run) -> None:
    """Add a run to a record."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Run)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(run))


def table(runs: Sequence[Run], densities: Sequence[float]) -> str:
    """A markdown table of all cases: top-1 as mean and standard deviation over seeds, then each cost at every density."""
    rows = [["method / structure", *(f"top-1 at {density:g}, %" for density in densities), *COLUMNS]]
    rows.append(["---", *["---:"] * (len(rows[0]) - 1)])
    seconds = [run.cpu_seconds for run in runs if run.case == "dense"]
    for case in CASES:
        groups = [[run for run in runs if run.case == case and run.density == density] for density in densities]
        if any(groups):
            costs = zip(*(_costs(some, mean(seconds) if seconds else float("nan")) for some in groups if some), strict=True)
            rows.append([case, *map(_accuracy, groups), *(" / ".join(cost) for cost in costs)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def lines(runs: Sequence[Run]) -> dict[str, list[Point]]:
    """The points of each case, rising in density."""
    found: dict[str, list[Point]] = {}
    for case in CASES:
        densities = sorted({run.density for run in runs if run.case == case})
        groups = [[run for run in runs if run.case == case and run.density == density] for density in densities]
        if groups:
            found[case] = [_point(group) for group in groups]
    return found


def _point(runs: Sequence[Run]) -> Point:
    top1 = [100 * run.top1 for run in runs]
    return mean(run.active_density for run in runs), mean(top1), stdev(top1) if len(top1) > 1 else nan


def _accuracy(runs: Sequence[Run]) -> str:
    values = [100 * run.top1 for run in runs]
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else "".join(f"{value:.1f}" for value in values)


def _costs(runs: Sequence[Run], dense_seconds: float) -> list[str]:
    names = ("active_density", "mean_density", "inference_flops", "train_flops")
    ratio = mean(run.cpu_seconds for run in runs) / dense_seconds
    return [*(f"{mean(getattr(run, name) for run in runs):.3f}" for name in names), f"{ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=["digits", "fashion_mnist"])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "records" / "methods")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the accuracies over the density: FILE.svg or .png")
    given = parser.parse_args()
    torch.set_num_threads(1)  # as the runs have

    given.records.mkdir(parents=True, exist_ok=True)
    path = given.records / "runs.csv"
    wanted = [
        Run(data=given.data, case=case, density=density, seed=seed, epochs=given.epochs)
        for seed in given.seeds
        for case in given.only
        for density in given.densities
        if case != "dense" or density == given.densities[0]
    ]
    made = {run.key for run in read(path)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        for future in as_completed([pool.submit(train, run) for run in wanted if run.key not in made]):
            append(path, future.result())
    keys = {run.key for run in wanted}
    runs = [run for run in read(path) if run.key in keys]
    print(f"\n{given.data}, {given.epochs} epochs, {len(given.seeds)} seeds\n\n{table(runs, given.densities)}")
    print(f"\n{setting(torch.device('cpu'))}")
    if given.plot:
        title = f"{given.data}, {given.epochs} epochs: mean ± deviation of {len(given.seeds)} seeds"
        given.plot.write_bytes(draw(lines(runs), given.plot.suffix.removeprefix("."), title=title))


if __name__ == "__main__":
    main()
