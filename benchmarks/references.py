"""Train by a public repository's own pruning class, and by our method at the same settings, and print the difference.

    python -m benchmarks.references --granet PATH [--methods rigl_itop gmp granet] [--densities 0.02 0.005] [--seeds 5]

PATH is your clone of github.com/VITA-Group/GraNet, of which nothing is copied here. Its class ``Masking`` gets our network,
data, optimizer and schedule: a dense run of the study's recipe, after each step of which it masks the weights as in its own
training loop. Initial weights and the order of the data are the same in both. Its random initial masks are its own.

Its ramp leaves out the last update, so GMP and GraNet end denser than they were told: "literal". For "corrected" it is told
the density with which it ends at that of our run.
"""

import argparse
import contextlib
import importlib
import io
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from benchmarks.study import runs
from benchmarks.study.cases import ROOT, Case
from benchmarks.study.record import append, read
from benchmarks.study.runs import rows_of, train, train_here
from benchmarks.study.statistics import paired

if TYPE_CHECKING:
    from dist_sparse.trainer import Moment, Trainer

NAMES: Mapping[str, str] = {"rigl_itop": "DST", "gmp": "GMP", "granet": "GraNet"}
"""What the repository calls the methods that the study's recipes have by the same settings."""
RAMPS = ("gmp", "granet")
INTERVAL, RAMP_END = 100, 0.5
"""Of all recipes: steps between two updates, and the share of the run after which pruning has ended."""
DROP_FRACTION = 0.5


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a reference."""

    method: str
    setting: str
    """literal or corrected."""
    density: float
    seed: int
    epochs: int
    settings: str
    """Digest of the dense run's configuration, which the data and schedule are from."""
    top1: float
    active_density: float


@contextlib.contextmanager
def on_the_cpu(clone: Path) -> Iterator[Any]:
    """The clone's module ``sparselearning.core``; its ``.cuda()`` does nothing meanwhile, and it prints nothing."""
    import torch

    folder = clone / "CIFAR"
    if not (folder / "sparselearning" / "core.py").is_file():
        raise SystemExit(f"--granet {clone}: no CIFAR/sparselearning/core.py there; it should be a clone of VITA-Group/GraNet")
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        with mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_: tensor), contextlib.redirect_stdout(io.StringIO()):
            yield importlib.import_module("sparselearning.core")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in set(sys.modules) - before if name.partition(".")[0] == "sparselearning"]:
            del sys.modules[name]


def final_density(method: str, density: float, steps: int, *, corrected: bool) -> float:
    """What the reference is told as its final density."""
    if method not in RAMPS or not corrected:
        return density
    left_out = (1 / (int(RAMP_END * steps) // INTERVAL)) ** 3
    return (density - left_out) / (1 - left_out)


class Driver:
    """A hook of a dense run, by which the reference's class masks it."""

    def __init__(self, core: Any, method: str, told: float, seed: int) -> None:
        self._core, self._method, self._told, self._seed = core, method, told, seed
        self._masking: Any = None

    def __call__(self, moment: "Moment", trainer: "Trainer") -> None:
        from dist_sparse.trainer import Moment

        if moment is Moment.STARTED:
            self._masking = self._begin(trainer)
        elif moment is Moment.GRADIENTS_READY:
            self._gradients = {p: p.grad for p in trainer.engine.model.parameters()}
        elif moment is Moment.STEPPED:
            for parameter, gradient in self._gradients.items():
                parameter.grad = gradient
            with contextlib.redirect_stdout(io.StringIO()):
                self._masking.step()
            for parameter in self._gradients:
                parameter.grad = None

    def _begin(self, trainer: "Trainer") -> Any:
        import torch

        steps, epochs = trainer.total_steps, trainer.config.train.epochs
        arguments = SimpleNamespace(
            method=NAMES[self._method],
            sparse_init="ERK",
            fix=False,
            update_frequency=INTERVAL,
            init_density=1.0 if self._method in RAMPS else self._told,
            final_density=self._told,
            init_prune_epoch=0,
            final_prune_epoch=RAMP_END * epochs,
            multiplier=1,
            rm_first=False,
        )
        # The run itself makes the optimizer's step and then calls this hook.
        optimizer = SimpleNamespace(state=trainer.engine._optimizer.state, step=lambda: None)
        decay = self._core.CosineDecay(DROP_FRACTION, steps)
        masking = self._core.Masking(
            optimizer,
            prune_rate=DROP_FRACTION,
            prune_rate_decay=decay,
            growth_mode="gradient",
            redistribution_mode="none",
            args=arguments,
            train_loader=range(steps // epochs),
        )
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            torch.default_generator.manual_seed(self._seed)
            masking.add_module(trainer.engine.model)
        return masking

    def density(self) -> float:
        """Of the masks as they are."""
        masks = self._masking.masks.values()
        return sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def _dense_of(case: Case) -> Case:
    """The run whose data, initial weights, optimizer and schedule the reference gets: ours without masks."""
    return replace(case, recipe="dense", density=1.0)


def train_reference(core: Any, method: str, setting: str, ours: Case, data_root: str) -> Row:
    """A run by the reference's class, beside the run ``ours``."""
    dense = _dense_of(ours)
    steps = ours.epochs * ((ours.images or 60_000) // dense.config.train.batch_size)
    told = final_density(method, ours.density, steps, corrected=setting == "corrected")
    driver = Driver(core, method, told, ours.seed)
    with tempfile.TemporaryDirectory() as folder:
        summary, _ = train_here(Path(folder), dense, data_root, {"checkpoint.every": "100%"}, [driver])
    return Row(
        method=method,
        setting=setting,
        density=ours.density,
        seed=ours.seed,
        epochs=ours.epochs,
        settings=dense.settings,
        top1=summary["last_top1"],
        active_density=round(driver.density(), 6),
    )


def table(ours: Mapping[tuple[str, float], Mapping[int, float]], theirs: Sequence[Row]) -> str:
    """A markdown table: top-1 in percent by seed of ours, and the rows of theirs."""
    head = ["method", "density", "setting of theirs", "seeds", "ours, %", "theirs, %", "ours - theirs (95 %)", "their density"]
    lines = [head, ["---", "---:", "---", *["---:"] * 5]]
    for method, density, setting in dict.fromkeys((row.method, row.density, row.setting) for row in theirs):
        rows = [row for row in theirs if (row.method, row.density, row.setting) == (method, density, setting)]
        their_top1 = {row.seed: 100 * row.top1 for row in rows}
        our_top1 = {seed: value for seed, value in ours[method, density].items() if seed in their_top1}
        difference = paired(our_top1, their_top1)
        if difference is not None:
            accuracies = [f"{mean(values.values()):.2f}" for values in (our_top1, their_top1)]
            text = str(difference)
            density_reached = f"{mean(row.active_density for row in rows):.5f}"
            lines.append([method, f"{density:g}", setting, str(difference.n), *accuracies, text, density_reached])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.references", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--granet", type=Path, required=True, metavar="PATH", help="your clone of VITA-Group/GraNet")
    parser.add_argument("--methods", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--densities", type=float, nargs="+", default=[0.02, 0.005])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, help="of the 60,000 to train with; default: all")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks" / "records" / "study")
    given = parser.parse_args(argv)

    our_record, their_record = given.records / "runs.csv", given.records / "references.csv"
    ours: dict[tuple[str, float], dict[int, float]] = {}
    theirs: list[Row] = []
    with on_the_cpu(given.granet) as core:
        for seed in range(given.seeds):
            for density in given.densities:
                for method in given.methods:
                    case = Case(
                        recipe=method,
                        network="lenet_300_100",
                        density=density,
                        seed=seed,
                        epochs=given.epochs,
                        images=given.images,
                    )
                    theirs += _beside(core, case, given.data_root, their_record)
                    ours.setdefault((method, density), {})[seed] = 100 * _our_run(case, given.data_root, our_record)
    print(table(ours, theirs))


def _our_run(case: Case, data_root: str, record: Path) -> float:
    """Our accuracy: as recorded, or of a new run."""
    if case not in (made := rows_of([case], read(record, runs.Row))):
        made = {case: train(case, data_root)}
        append(record, made[case])
    return made[case].top1


def _beside(core: Any, case: Case, data_root: str, record: Path) -> list[Row]:
    """The reference's runs beside one of ours: as recorded, or new ones."""
    rows = []
    for setting in ("literal", "corrected") if case.recipe in RAMPS else ("literal",):
        wanted = (case.recipe, setting, case.density, case.seed, _dense_of(case).settings)
        known = [row for row in read(record, Row) if wanted == (row.method, row.setting, row.density, row.seed, row.settings)]
        row = known[0] if known else train_reference(core, case.recipe, setting, case, data_root)
        if not known:
            append(record, row)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
