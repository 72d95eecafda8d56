"""The tables of a study in markdown, one for each density."""

from collections.abc import Iterable, Mapping
from math import isnan
from statistics import mean

from benchmarks.study.cases import Case
from benchmarks.study.runs import Row
from benchmarks.study.statistics import Estimate, estimate, paired

AGAINST = ("static", "rigl")
"""Recipes that every other one is compared to, seed by seed."""
HEAD = (
    "seeds",
    "top-1, %",
    *(f"- {name} (95 %)" for name in AGAINST),
    "mean density",
    "inference FLOPs",
    "training FLOPs",
    "CPU s",
)

Group = Mapping[int, Row]
"""The rows of one case at one density by their seeds."""


def groups(found: Mapping[Case, Row]) -> dict[float, dict[str, Group]]:
    """The rows by density and label, densities falling."""
    grouped: dict[float, dict[str, dict[int, Row]]] = {}
    for case, row in found.items():
        grouped.setdefault(case.density, {}).setdefault(case.label, {})[case.seed] = row
    return {density: dict(grouped[density]) for density in sorted(grouped, reverse=True)}


def tables(found: Mapping[Case, Row]) -> str:
    """A table for each density, with the dense network in the first line of each."""
    grouped = groups(found)
    dense = grouped.pop(1.0, {})
    return "\n\n".join(table(f"density {density:g}", {**dense, **of}) for density, of in grouped.items())


def table(title: str, of: Mapping[str, Group]) -> str:
    """The table of one density: differences are in points, within the seeds that both have."""
    lines = [[title, *HEAD], ["---", *["---:"] * len(HEAD)]]
    for label, group in of.items():
        costs = (
            mean(getattr(row, name) for row in group.values()) for name in ("mean_density", "inference_flops", "train_flops")
        )
        differences = (_difference(label, name, of) for name in AGAINST)
        seconds = mean(row.cpu_seconds for row in group.values())
        accuracy = _accuracy(estimate(list(top1(group).values())))
        lines.append([label, str(len(group)), accuracy, *differences, *(f"{cost:.3f}" for cost in costs), f"{seconds:.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def top1(group: Group) -> dict[int, float]:
    """Top-1 in percent by seed."""
    return {seed: 100 * row.top1 for seed, row in group.items()}


def comparisons(found: Mapping[Case, Row]) -> Iterable[tuple[float, str, str, Estimate]]:
    """Every difference that has an interval: density, label, compared to, difference in points."""
    grouped = groups(found)
    dense = grouped.pop(1.0, {})
    for density, of in grouped.items():
        both = {**dense, **of}
        for label, group in both.items():
            for name in AGAINST:
                if label != name and name in both:
                    difference = paired(top1(group), top1(both[name]))
                    if difference is not None and difference.n > 1:
                        yield density, label, name, difference


def _accuracy(value: Estimate) -> str:
    return f"{value.mean:.2f}" if isnan(value.standard_error) else f"{value.mean:.2f} ± {value.standard_error:.2f}"


def _difference(label: str, name: str, of: Mapping[str, Group]) -> str:
    """In bold where the interval leaves zero out."""
    if label == name or name not in of:
        return ""
    difference = paired(top1(of[label]), top1(of[name]))
    if difference is None:
        return ""
    return f"**{difference}**" if difference.differs_from_zero else str(difference)
