"""What the probes found, on the screen and in the run's folder: a table, the same as CSV, and as JSON with its conditions."""

import csv
import dataclasses
import io
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from dist_sparse.errors import UserError
from dist_sparse.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What all probes of a checkpoint share. ``density`` is that of the probed ``layers`` together."""

    checkpoint: str
    subnet: str
    """Its label; empty for a checkpoint of one network."""
    step: int
    layers: list[str]
    density: float
    top1: float
    recovery_epochs: int
    learning_rate: float
    gradient_batches: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One probe at one rate. Densities are of the probed layers together, accuracies fractions."""

    probe: str
    rate: float
    density_pruned: float
    density: float
    """After growth."""
    mask_digest: str
    top1_before: float
    top1_after: float
    top1_recovered: float | None
    """None without recovery epochs, and where they diverged."""


class Report:
    """The files of one call, complete after each row. A second call writes files of its own."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        self._folder, self._facts, self._rows = folder, facts, list[Row]()
        self.paths: tuple[Path, ...] = ()
        """The CSV file and the JSON file, once there is a row."""

    def add(self, row: Row) -> None:
        """Take a row into both files."""
        self.paths = self.paths or _claim(self._folder, f"step_{self._facts.step:08d}")
        self._rows.append(row)
        rows = [dataclasses.asdict(each) for each in self._rows]
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        whole = json.dumps({**dataclasses.asdict(self._facts), "rows": rows}, indent=1)
        for path, text in zip(self.paths, (table.getvalue(), whole + "\n"), strict=True):
            try:
                atomic_write(path, lambda file, text=text: file.write(text.encode()))
            except OSError as error:
                raise UserError(f"{path} cannot be written: {error.strerror}") from error


def _claim(folder: Path, stem: str) -> tuple[Path, Path]:
    """Paths of a CSV and a JSON file in the folder that no earlier call has taken."""
    for number in itertools.count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        try:
            (folder / f"{name}.csv").open("x").close()
            return folder / f"{name}.csv", folder / f"{name}.json"
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}") from error
    raise AssertionError("counting does not end")


def heading(facts: Facts) -> list[str]:
    """The lines before the first row."""
    recovery = "none"
    if facts.recovery_epochs:
        recovery = f"{facts.recovery_epochs} epochs at a learning rate of {facts.learning_rate:g}, masks fixed"
    return [
        f"checkpoint  {facts.checkpoint} (step {facts.step}{facts.subnet and f', {facts.subnet}'})",
        f"before      top-1 {facts.top1:.2%}, density {facts.density:.2%} of {len(facts.layers)} layers",
        f"recovery    {recovery}",
        "",
        f"{'probe':<28}{'rate':>7}{'pruned to':>11}{'density':>10}{'before':>10}{'after':>10}{'recovered':>11}",
    ]


def line(row: Row) -> str:
    """A row of the table."""
    recovered = "-" if row.top1_recovered is None else f"{row.top1_recovered:.2%}"
    densities = f"{row.density_pruned:>11.2%}{row.density:>10.2%}"
    return f"{row.probe:<28}{row.rate:>7g}{densities}{row.top1_before:>10.2%}{row.top1_after:>10.2%}{recovered:>11}"
