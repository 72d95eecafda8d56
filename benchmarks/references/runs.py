"""Making the runs of references, the rows that a record holds of them, and the table beside our runs."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.references.reference import Job, imported
from benchmarks.study.runs import in_folder, train_here
from benchmarks.study.statistics import paired


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a reference."""

    reference: str
    method: str
    """Our recipe beside it."""
    setting: str
    """literal or corrected."""
    density: float
    seed: int
    epochs: int
    settings: str
    """Digest of the dense run's configuration, which the data and schedule are from."""
    top1: float
    active_density: float
    """The final density of the layers that it masks."""


def train_job(job: Job, clones: Mapping[str, Path], data_root: str) -> Row:
    """Make a run of a reference."""
    option = job.reference.option
    with tempfile.TemporaryDirectory() as folder, imported(job.reference, clones[option]) as module:
        driver = job.reference.driver(module, job)
        overrides = [*job.dense.overrides, *in_folder(Path(folder), data_root, {"checkpoint.every": "100%"})]
        summary, _ = train_here(job.dense.file, overrides, [driver])
    return Row(
        reference=option,
        method=job.comparison.recipe,
        setting=job.setting,
        density=job.density,
        seed=job.seed,
        epochs=job.epochs,
        settings=job.dense.settings,
        top1=summary["last_top1"],
        active_density=round(driver.density(), 6),
    )


def known(job: Job, rows: Sequence[Row]) -> Row | None:
    """The row of a job that is on record."""
    for row in rows:
        of = (row.reference, row.method, row.setting, row.density, row.seed, row.settings)
        if of == (job.reference.option, job.comparison.recipe, job.setting, job.density, job.seed, job.dense.settings):
            return row
    return None


def table(pairs: Sequence[tuple[Job, Row, float]]) -> str:
    """A markdown table of the references' runs, each with the accuracy of our run beside it."""
    head = ["reference", "our recipe", "density", "setting of theirs", "seeds", "ours, %", "theirs, %"]
    lines = [[*head, "ours - theirs (95 %)", "their density"], ["---", "---", "---:", "---", *["---:"] * 5]]
    groups: dict[tuple[str, str, float, str], list[tuple[Row, float]]] = {}
    for job, row, ours in pairs:
        groups.setdefault((job.reference.repository, row.method, row.density, row.setting), []).append((row, ours))
    for (repository, method, density, setting), rows in groups.items():
        theirs = {row.seed: 100 * row.top1 for row, _ in rows}
        ours = {row.seed: 100 * top1 for row, top1 in rows}
        means = [f"{mean(values.values()):.2f}" for values in (ours, theirs)]
        reached = f"{mean(row.active_density for row, _ in rows):.5f}"
        found = str(paired(ours, theirs))
        lines.append([repository, method, f"{density:g}", setting, str(len(rows)), *means, found, reached])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
