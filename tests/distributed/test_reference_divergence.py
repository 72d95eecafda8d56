"""GraNet on two ranks, in the settings in which the reference's ranks come to hold different masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import cases
from tests.distributed.world import World
from tests.values import TINY_VIT

RUNS = json.loads((Path(__file__).parent.parent / "vectors" / "granet_ddp_mask_divergence.json").read_text())["runs"]
SETTINGS: dict[str, dict[str, Any]] = {
    "s_i=0.5, repo seeding": {"sparsity.ramp.initial_density": 0.5},
    "s_i=0.5, equal seed": {"sparsity.ramp.initial_density": 0.5},
    "dense start, repo seeding": {},
    "dense start, random growth": {"sparsity.update.growth": "random"},
}


@pytest.mark.parametrize("reference", RUNS, ids=lambda run: run["tag"])
def test_ranks_that_are_seeded_apart_hold_the_same_masks(
    worlds: Callable[[int], World], tmp_path: Path, reference: dict[str, Any]
) -> None:
    """An update every five steps, a ramp of 40 to density 0.2, and 66 steps in all, as in the reference's experiment."""
    values = {
        "model.name": "vit_tiny_patch16_224",
        "model.kwargs": TINY_VIT,
        "train.batch_size": 64,
        "train.epochs": 3,
        "sparsity.method": "granet",
        "sparsity.density": 0.2,
        "sparsity.update.interval": "5 steps",
        "sparsity.ramp.end": "40 steps",
        **SETTINGS[reference["tag"]],
    }
    own_seeds = reference["tag"] != "s_i=0.5, equal seed"
    first, second = worlds(2).run(cases.train_seeded_apart if own_seeds else cases.train, values, str(tmp_path))
    diverges = {run["tag"]: run["history"][-1]["mask_disagree_fraction"] > 0.05 for run in RUNS}
    assert diverges[reference["tag"]] == (reference["tag"] in ("s_i=0.5, repo seeding", "dense start, random growth"))
    assert first.updates >= 12
    assert first.initial == second.initial
    assert first.digests == second.digests and len(set(first.digests.values())) >= 12
    assert first.final == second.final
    density = first.column("sparsity/density")
    assert density == second.column("sparsity/density"), "where the reference's ranks drift apart by random growth"
    assert density[40] == density[65] == pytest.approx(0.2, abs=1e-4)
