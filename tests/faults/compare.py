"""Whether two runs have left the same, bit for bit; times, memory and what names their folders aside."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_ASIDE = {"progress.seconds", "progress.seconds_per_step", "config.output", "config.resume", "wandb_id"}
"""What no two runs share in a checkpoint; nor its digests of these, and of a table with times."""


def _is_aside(name: str, aside: set[str]) -> bool:
    return name.removeprefix("contents.") in aside or name.startswith(("tables.metrics.csv", "contents.tables"))


_OF_BEST = ("best_top1", "best_step")


MISSING, TOO_MANY = ": is missing", ": should not be there"
"""What is said of a checkpoint that only one of the folders has."""


def differences(folder: Path, reference: Path, *, but_best: bool = False) -> list[str]:
    """One line for each file that is not as the reference's; empty if the two runs are the same.

    ``but_best``: a checkpoint could not be written, so that another one may be the best.
    """
    found = []
    for name in ("metrics.csv", "layers.csv"):
        if (text := _rows(folder / name)) != (expected := _rows(reference / name)):
            found.append(f"{name}: {_first_difference(text, expected)}")
    summary, expected = _summary(folder), _summary(reference)
    if summary != expected:
        keys = [key for key in {*summary, *expected} if summary.get(key) != expected.get(key)]
        lines = [f"{key} {summary.get(key)} and not {expected.get(key)}" for key in keys if not (but_best and key in _OF_BEST)]
        found += [f"summary.json: {', '.join(lines)}"] if lines else []
    ours, theirs = (sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (folder, reference))
    found += [f"{name}{MISSING if name in theirs else TOO_MANY}" for name in sorted({*ours} ^ {*theirs})]
    for name in (name for name in theirs if name in ours):
        aside = {*_ASIDE, *(f"progress.{key}" for key in _OF_BEST if but_best)}
        pair = folder / "checkpoints" / name, reference / "checkpoints" / name
        found += [f"{name}: {line}" for line in (_checkpoint(*pair, aside) if not (but_best and name == "best.pt") else [])]
    found += [f"{path.relative_to(folder)} was left behind" for path in folder.rglob("*.partial")]
    return found


def not_finite(folder: Path) -> list[str]:
    """Every place of a run's checkpoints that holds a number which is none."""
    import torch

    found = []
    for path in sorted((folder / "checkpoints").glob("*.pt")):
        for name, leaf in leaves(load(path)):
            good = torch.isfinite(leaf).all().item() if isinstance(leaf, torch.Tensor) else leaf == leaf  # NaN is not
            found += [] if good else [f"{path.name}: {name}"]
    return found


def load(path: Path) -> dict[str, Any]:
    import torch

    return torch.load(path, weights_only=True)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a state with their dotted names."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        yield name, tree
        return
    for key, value in items:
        yield from leaves(value, f"{name}.{key}".lstrip("."))


def _checkpoint(path: Path, reference: Path, aside: set[str]) -> list[str]:
    import torch

    try:
        ours, theirs = dict(leaves(load(path))), dict(leaves(load(reference)))
    except Exception as error:  # whatever broken bytes make torch trip over
        return [f"cannot be read: {type(error).__name__}"]
    found = [f"has {name}, which is missing in one of the two" for name in ours.keys() ^ theirs.keys()]
    for name in (name for name in ours if name in theirs and not _is_aside(name, aside)):
        mine, other = ours[name], theirs[name]
        if isinstance(mine, torch.Tensor) and isinstance(other, torch.Tensor):
            same = mine.dtype == other.dtype and mine.shape == other.shape and _bits(mine) == _bits(other)
        else:
            same = mine == other
        found += [] if same else [name]
    return [f"{len(found)} values differ, {', '.join(found[:3])}"] if found else []


def _bits(tensor: Any) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def _rows(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, ValueError) as error:
        return [[f"cannot be read: {error}"]]
    aside = {number for number, name in enumerate(rows[0] if rows else []) if name.startswith(("time/", "memory/"))}
    return [[text for number, text in enumerate(row) if number not in aside] for row in rows]


def _first_difference(rows: list[list[str]], expected: list[list[str]]) -> str:
    for number, (row, other) in enumerate(zip(rows, expected, strict=False)):
        if row != other:
            columns = [f"{mine!r} and not {theirs!r}" for mine, theirs in zip(row, other, strict=False) if mine != theirs]
            return f"row {number}: {'; '.join(columns[:2]) or 'more columns'}"
    return f"{len(rows)} rows and not {len(expected)}"


def _summary(folder: Path) -> dict[str, Any]:
    try:
        summary = json.loads((folder / "summary.json").read_text())
    except (OSError, ValueError) as error:
        return {"cannot be read": str(error)}
    return {key: value for key, value in summary.items() if key not in ("wall_seconds", "seconds_per_step")}
