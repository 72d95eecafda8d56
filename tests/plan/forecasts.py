"""What --plan forecasts of a run, and what the run then did."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.config import parse_args
from dist_sparse.plan.outlook import Outlook, look_ahead
from tests.command import metrics, words

GUESS = 0.8
"""Relative, for networks of few layers; where all are pruned together, how a layer's FLOPs come out is up to training."""


def outlook(values: dict[str, Any], ranks: int = 1) -> Outlook:
    return look_ahead(parse_args(words(values)).config, ranks)


def a_weight(ahead: Outlook) -> float:
    """What rounding to a whole weight makes of a density, of all layers together (and what a file's seven digits do)."""
    return 1e-6 + 1 / max(1, sum(shape.numel() for shape in ahead.shapes.values()))


def check(values: dict[str, Any], folder: Path) -> None:
    """Compare what a run of these values has written in its folder with what was forecast."""
    ahead = outlook(values)
    summary = json.loads((folder / "summary.json").read_text())
    rows = metrics(folder)
    assert len(ahead.made) == summary["steps"]
    assert ahead.update_steps == [int(row["step"]) for row in rows if row["sparsity/changed"]]
    assert ahead.mean_density == pytest.approx(summary["mean_density"], abs=a_weight(ahead))
    assert ahead.peak_density == pytest.approx(summary["peak_density"], abs=a_weight(ahead))
    assert ahead.density(ahead.final_densities) == pytest.approx(summary["density"], abs=a_weight(ahead))
    assert ahead.cost.active_parameters == pytest.approx(summary["active_parameters"], abs=len(ahead.shapes))
    assert (ahead.cost.parameters, ahead.cost.dense_flops) == (summary["parameters"], summary["dense_flops"])
    near = (GUESS, None) if ahead.forecast.estimate else (None, 1e-6)  # relative, absolute
    assert ahead.inference_share == pytest.approx(summary["inference_flops_relative"], *near)
    assert ahead.training_share == pytest.approx(summary["train_flops_relative"], *near)
    check_layers(ahead, folder)


def check_layers(ahead: Outlook, folder: Path) -> None:
    """Every layer's density at every update or, where layers share, that of all together."""
    logged: dict[int, dict[str, float]] = defaultdict(dict)
    if not (folder / "layers.csv").exists():
        assert not ahead.update_steps
        return
    with (folder / "layers.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            logged[int(row["step"])][row["layer"]] = float(row["density"])
    for network in ahead.forecast.networks:
        for update in network.updates:
            layers = {name: logged[ahead.made[update.index]][f"{network.label} {name}".lstrip()] for name in ahead.shapes}
            assert ahead.density(layers) == pytest.approx(ahead.density(update.densities), abs=a_weight(ahead))
            if not ahead.forecast.estimate:
                assert layers == pytest.approx(update.densities, abs=2e-6)
