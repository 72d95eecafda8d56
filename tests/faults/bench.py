"""What every kind of fault needs: starts of the command, reference runs that nothing happens to, and the verdict."""

import itertools
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.compare import differences
from tests.faults.processes import Ended, Server, Start
from tests.faults.runs import Run, choose


@dataclass(frozen=True)
class Reference:
    """A run that nothing happened to."""

    folder: Path
    seconds: float
    operations: list[int]
    """File operations of each rank in the run's folder."""

    @property
    def steps(self) -> int:
        return json.loads((self.folder / "summary.json").read_text())["steps"]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@dataclass
class Case:
    """One fault and what came of it. Nothing may be found but ``outcome``, which tells in a word how the run ended."""

    kind: str
    story: str = ""
    outcome: str = "equal"
    differences: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        return self.differences + self.hangs + self.tracebacks + self.others


@dataclass
class Bench:
    """Where cases are tried: some servers, a folder, and the reference runs so far."""

    servers: Sequence[Server]
    folder: Path
    variety: int = 40
    _references: dict[str, Reference] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def choose(self, draw: random.Random, ranks: tuple[int, ...] = (1, 1, 2, 4)) -> Run:
        return choose(draw, self.variety, ranks)

    def reference(self, run: Run) -> Reference:
        if run.name not in self._references:
            folder = self.folder / f"reference{next(self._numbers)}"
            files = [self.folder / f"{folder.name}.operations.{rank}" for rank in range(run.ranks)]
            faults = {rank: {"count": {"folder": str(folder), "file": str(file)}} for rank, file in enumerate(files)}
            with self.start(run, folder, faults) as start:
                ended = start.end()
            if any(ended.codes) or ended.findings:
                raise RuntimeError(f"{run.name} does not come to its end though nothing happens to it: {ended}")
            self._references[run.name] = Reference(folder, ended.seconds, [file.stat().st_size for file in files])
        return self._references[run.name]

    def start(self, run: Run, folder: Path, faults: Mapping[int, dict[str, Any]] | None = None) -> Start:
        """The command on the ranks of a run; one start after the other is another server's."""
        number = next(self._numbers)
        server = self.servers[number % len(self.servers)]
        return Start(server, run.arguments(folder), run.ranks, self.folder / f"log{number}", dict(faults or {}))

    def new_folder(self) -> Path:
        return self.folder / f"run{next(self._numbers)}"

    def tried(self, case: Case, ended: Ended) -> Ended:
        """Note what no end may show: a hang, something left running, a traceback where no rank was struck."""
        case.hangs += ended.findings
        if ended.tracebacks and not ended.struck:
            case.tracebacks.append(ended.err[-1500:])
        return ended

    def resume(self, case: Case, run: Run, folder: Path, *, but_best: bool = False) -> Ended:
        """Start the command again. It must go on to the reference's end, or refuse in one line."""
        with self.start(run, folder) as start:
            ended = self.tried(case, start.end())
        if ended.code == 0:
            case.differences += differences(folder, self.reference(run).folder, but_best=but_best)
        elif (ended.code == 2 or _not_saved(ended)) and ended.errors and not ended.tracebacks:
            case.outcome = "refused"
        else:
            case.others.append(f"ended with {ended.codes}: {ended.err[-1500:]}")
        return ended


def _not_saved(ended: Ended) -> bool:
    """It has trained to the end and says what it could not write."""
    return any("could not be written" in line for line in ended.errors)


def finished_as_expected(bench: Bench, case: Case, run: Run, folder: Path) -> None:
    """Resume, and a refusal is a finding too; the folder goes if there is none."""
    bench.resume(case, run, folder)
    if case.outcome == "refused":
        case.others.append("refused to go on, though nothing was damaged")
    clean_up(case, folder)


def clean_up(case: Case, folder: Path) -> None:
    if not case.findings:
        shutil.rmtree(folder, ignore_errors=True)


def some_operation(draw: random.Random, reference: Reference, rank: int, *, late: bool = False) -> int:
    """The number of a file operation of a rank; ``late``: in the second half, when there are checkpoints."""
    last = reference.operations[rank]
    return draw.randint(last // 2 if late else 1, max(last, 1))
