"""Making runs, and the rows that a record holds of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.study.cases import ROOT, Case
from dist_sparse.config import Config
from dist_sparse.errors import UserError

if TYPE_CHECKING:
    from dist_sparse.trainer import Hook


@dataclass(frozen=True, kw_only=True)
class Row:
    """One finished run: what it was, and what came of it."""

    network: str
    case: str
    density: float
    seed: int
    epochs: int
    settings: str
    """Digest of the configuration (:attr:`.Case.settings`)."""
    top1: float
    active_density: float
    mean_density: float
    inference_flops: float
    train_flops: float
    cpu_seconds: float
    """CPU time of the training process, without the imports at its start."""


def row_of(case: Case, summary: dict[str, Any], cpu_seconds: float) -> Row:
    """The row of a run with this summary (that of its ``summary.json``)."""
    return Row(
        network=case.network,
        case=case.label,
        density=case.density,
        seed=case.seed,
        epochs=case.epochs,
        settings=case.settings,
        top1=summary["last_top1"],
        active_density=round(summary["density"], 6),
        mean_density=round(summary["mean_density"], 6),
        inference_flops=round(summary["inference_flops_relative"], 6),
        train_flops=round(summary["train_flops_relative"], 6),
        cpu_seconds=round(cpu_seconds, 2),
    )


def check_data(config: Config, data_root: str) -> None:
    """Before the first run of many: else each of them would fail.

    Raises:
        SystemExit: the images are not in the folder; with a line that names it.
    """
    from dist_sparse.data.readers import SMALL_SETS
    from dist_sparse.data.small_set import read_small

    try:
        read_small(replace(config.data, root=data_root), SMALL_SETS[config.data.name])
    except UserError as error:
        raise SystemExit(f"--data-root={data_root}: {error}") from None


def train(case: Case, data_root: str) -> Row:
    """Make a run with one thread a rank: in this process, or with several ranks under torchrun."""
    with tempfile.TemporaryDirectory() as folder:
        return train_in(Path(folder), case, data_root, {"checkpoint.every": "100%"})


def train_in(folder: Path, case: Case, data_root: str, keys: Mapping[str, object]) -> Row:
    """Make a run in a folder, which keeps what it saves."""
    overrides = [*case.overrides, *in_folder(folder, data_root, keys)]
    if case.ranks > 1:
        return row_of(case, *_on_ranks(case, overrides, folder))
    return row_of(case, *train_here(case.file, overrides))


def train_here(recipe: Path, overrides: Sequence[str], hooks: Sequence["Hook"] = ()) -> tuple[dict[str, Any], float]:
    """Make a run in this process with one thread; returns its summary and the CPU seconds that it took."""
    import torch

    from dist_sparse.config import load_config
    from dist_sparse.run import train

    torch.set_num_threads(1)
    started = time.process_time()
    return train(load_config(str(recipe), list(overrides)), hooks=hooks), time.process_time() - started


def in_folder(folder: Path, data_root: str, keys: Mapping[str, object]) -> list[str]:
    """The options that let a run write into a folder, and nowhere else."""
    keys = {"output": folder, "data.root": data_root, "tracking.wandb": "disabled", **keys}
    return [f"--{key}={value}" for key, value in keys.items()]


def _on_ranks(case: Case, overrides: Sequence[str], folder: Path) -> tuple[dict[str, Any], float]:
    """The summary of a run under torchrun, and the CPU seconds that its processes took."""
    before = os.times()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.ranks}"]
    command = [*torchrun, "-m", "dist_sparse.train", f"--config={case.file}", *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise RuntimeError(errors[0] if errors else f"torchrun ended with {done.returncode}")
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads((folder / "summary.json").read_text()), seconds


def rows_of(cases: Iterable[Case], rows: Iterable[Row]) -> dict[Case, Row]:
    """The rows of a record that are of these cases as they are now; others stay in the file and do not count."""
    found = {(row.case, row.settings): row for row in rows}
    return {case: found[case.label, case.settings] for case in cases if (case.label, case.settings) in found}
