"""The tables of a study in markdown, one for each density."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from statistics import mean

from benchmarks.study.cases import Case
from benchmarks.study.runs import Row
from benchmarks.study.statistics import Estimate, estimate, paired

AGAINST = ("static", "rigl")
"""Recipes that every other one is compared to, seed by seed; recipes of N:M are compared to these of N:M."""
PLAIN = "as shipped"
"""An ablation's settings are compared to the recipe as it is."""
COSTS = ("mean_density", "inference_flops", "train_flops")
HEAD = ("mean density", "inference FLOPs", "training FLOPs", "CPU s")

Group = Mapping[int, Row]
"""The rows of one case at one density by their seeds."""


def groups(found: Mapping[Case, Row]) -> dict[float, dict[str, Group]]:
    """The rows by density and label, densities falling."""
    grouped: dict[float, dict[str, dict[int, Row]]] = {}
    for case, row in found.items():
        grouped.setdefault(case.density, {}).setdefault(case.label, {})[case.seed] = row
    return {density: dict(grouped[density]) for density in sorted(grouped, reverse=True)}


def tables(found: Mapping[Case, Row], against: Sequence[str] = AGAINST) -> str:
    """A table for each density, with the dense network in the first line of each; ``against``: recipes compared to."""
    grouped = groups(found)
    dense = grouped.pop(1.0, {})
    return "\n\n".join(table(f"density {density:g}", {**dense, **of}, against) for density, of in grouped.items())


def overview(found: Mapping[Case, Row]) -> str:
    """One table of top-1 in percent: a line for each recipe, a column for each density, and what training cost at the last.

    The dense network alone has a column of its own density.
    """
    grouped = groups(found)
    dense = grouped.pop(1.0, {}) if len(grouped) > 1 else {}
    labels = list(dict.fromkeys(label for of in (dense, *grouped.values()) for label in of))
    lines = [["top-1, %", *(f"{density:g}" for density in grouped), "training FLOPs"], ["---", *["---:"] * (len(grouped) + 1)]]
    for label in labels:
        of_density = [dense.get(label) or of.get(label) for of in grouped.values()]
        cells = [_accuracy(estimate(list(top1(group).values()))) if group else "" for group in of_density]
        last = [mean(row.train_flops for row in group.values()) for group in of_density if group]
        lines.append([label, *cells, f"{last[-1]:.3f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(title: str, of: Mapping[str, Group], against: Sequence[str] = AGAINST) -> str:
    """The table of one density: differences are in points, within the seeds that both have."""
    compared = differences(of, against)
    columns = [name for name in (*against, PLAIN) if any(name == other for _, other in compared)]
    head = [title, "seeds", "top-1, %", *(f"- {name} (95 %)" for name in columns), *HEAD]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for label, group in of.items():
        accuracy = _accuracy(estimate(list(top1(group).values())))
        cells = [_difference(compared.get((label, name))) for name in columns]
        costs = [f"{mean(getattr(row, name) for row in group.values()):.3f}" for name in COSTS]
        seconds = mean(row.cpu_seconds for row in group.values())
        lines.append([label, str(len(group)), accuracy, *cells, *costs, f"{seconds:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def differences(of: Mapping[str, Group], against: Sequence[str] = AGAINST) -> dict[tuple[str, str], Estimate]:
    """The differences in points within one table, by label and column."""
    found: dict[tuple[str, str], Estimate] = {}
    for label, group in of.items():
        bases = {name: name if name in of else f"{name}_nm" for name in against}
        bases[PLAIN] = label.partition(", ")[0]
        for name, base in bases.items():
            if base != label and base in of and (difference := paired(top1(group), top1(of[base]))) is not None:
                found[label, name] = difference
    return found


def top1(group: Group) -> dict[int, float]:
    """Top-1 in percent by seed."""
    return {seed: 100 * row.top1 for seed, row in group.items()}


def intervals(found: Mapping[Case, Row], against: Sequence[str] = AGAINST) -> Iterable[Estimate]:
    """Every difference of the tables that has an interval."""
    grouped = groups(found)
    dense = grouped.pop(1.0, {})
    for of in grouped.values():
        yield from (each for each in differences({**dense, **of}, against).values() if each.n > 1)


def _accuracy(value: Estimate) -> str:
    return f"{value.mean:.2f}" if isnan(value.standard_error) else f"{value.mean:.2f} ± {value.standard_error:.2f}"


def _difference(value: Estimate | None) -> str:
    """In bold where the interval leaves zero out."""
    if value is None:
        return ""
    return f"**{value}**" if value.differs_from_zero else str(value)
