"""A campaign: cases one after the other, each from its seed and number alone, and the figures of what was found."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.bench import Bench, Case
from tests.faults.damage import damage
from tests.faults.files import full_disk, refused_operations
from tests.faults.kills import kills, kills_at_files, signals, stopped
from tests.faults.not_finite import not_finite
from tests.faults.processes import servers

Kind = Callable[[Bench, random.Random], Case]
KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (kills, kills_at_files, signals, stopped, full_disk, refused_operations, damage, not_finite)
}


@dataclass
class Figures:
    """What a campaign has found so far."""

    seed: int
    cases: list[tuple[str, Case]] = field(default_factory=list)
    """Each with its name: ``kind/number``."""

    def report(self) -> str:
        """A table by kind, and below it each case that is not as it should be, with the command that repeats it."""
        head = f"{'kind':<32}{'cases':>7}{'differences':>13}{'hangs':>7}{'tracebacks':>12}{'others':>8}  outcomes"
        lines = [head]
        for kind in [*dict.fromkeys(case.kind for _, case in self.cases), ""]:
            cases = [case for _, case in self.cases if kind in ("", case.kind)]
            counts = [sum(bool(getattr(case, name)) for case in cases) for name in _COLUMNS]
            outcomes = ", ".join(f"{count} {name}" for name, count in Counter(case.outcome for case in cases).most_common())
            figures = "".join(
                f"{count:>{width}}" for count, width in zip((len(cases), *counts), (7, 13, 7, 12, 8), strict=True)
            )
            lines.append(f"{kind or 'all':<32}{figures}  {outcomes if kind else ''}".rstrip())
        for name, case in self.failed:
            lines += ["", f"python -m tests.faults --seed {self.seed} --case {name}", f"    {case.story}"]
            lines += [f"    {line}" for finding in case.findings for line in finding.splitlines()]
        return "\n".join(lines)

    @property
    def failed(self) -> list[tuple[str, Case]]:
        return [(name, case) for name, case in self.cases if case.findings]


_COLUMNS = ("differences", "hangs", "tracebacks", "others")


def try_case(bench: Bench, seed: int, name: str) -> Case:
    """The case ``kind/number`` of a seed. A run that does not even come to its end by itself is a finding, too."""
    kind = name.partition("/")[0]
    try:
        return KINDS[kind](bench, random.Random(f"{seed} {name}"))
    except RuntimeError as error:
        return Case(kind, outcome="no reference", others=[str(error)])


def try_cases(
    seed: int, names: Iterable[str], folder: Path, *, until: float = float("inf"), number_of_servers: int = 2,
    tell: Callable[[str], object] = lambda _: None,
) -> Figures:  # fmt: skip
    """Try cases by name, ``kind/number``, until they are over or the time (of :func:`time.monotonic`) is."""
    figures = Figures(seed)
    with servers(number_of_servers) as started:
        bench = Bench(started, folder)
        for name in names:
            if time.monotonic() > until:
                break
            case = try_case(bench, seed, name)
            figures.cases.append((name, case))
            tell(f"{name}: {'; '.join(case.findings) or case.outcome} ({case.story})")
    return figures
