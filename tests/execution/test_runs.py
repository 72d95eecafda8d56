"""Whole runs with sparse execution beside dense ones, in double precision: the same masks, and losses but for rounding."""

from pathlib import Path
from typing import Any

import pytest

from tests.command import metrics, train_here
from tests.test_every_method import CONFIGS, short

KEYS: dict[str, Any] = {
    "train.precision": "fp64",
    "train.epochs": 1,
    "train.accumulation": 1,
    "tracking.log_every": 1,
    "resume": "never",
}
"""11 steps."""


def trained(folder: Path, values: dict[str, Any], compute: str) -> list[dict[str, Any]]:
    outcome = train_here({**values, "execution.compute": compute, "output": folder / compute})
    assert outcome.code == 0, outcome.err
    return metrics(folder / compute)


def check_alike(sparse: list[dict[str, Any]], dense: list[dict[str, Any]]) -> None:
    assert len(sparse) == len(dense)
    for ours, theirs in zip(sparse, dense, strict=True):
        for name, value in theirs.items():
            if name.startswith(("train/", "val/")) and value:
                assert float(ours[name]) == pytest.approx(float(value), rel=1e-9), name
            elif not name.startswith("execution/"):
                assert ours[name] == value, name


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "dense"], ids=lambda path: path.stem)
def test_every_method_trains_as_it_does_densely(tmp_path: Path, path: Path) -> None:
    values = {**short(path), **KEYS}
    if path.stem.startswith("ast"):  # whose sub-nets come to their densities one after the other
        values["train.epochs"] = 2
    sparse, dense = (trained(tmp_path, values, compute) for compute in ("sparse", "dense"))
    check_alike(sparse, dense)
    assert any(float(row["execution/sparse_layers"] or 0) > 0 for row in sparse)
