"""Forgetting is counted alike on 1, 2 and 4 ranks, and so are the samples that are left out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.distributed import cases
from tests.distributed.world import World
from tests.values import TINY_VIT

VALUES = {
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "train.precision": "fp64",
    "train.batch_size": 64,
    "train.accumulation": 2,
    "train.epochs": 4,
    "optim.lr": 0.05,
    "sparsity.method": "mest",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "1 epochs",
    "data.forgetting.epochs": 3,
    "data.forgetting.remove": 500,
}
"""22 steps in each of three epochs, and 14 in the last."""


def test_counts_and_what_follows_do_not_depend_on_the_number_of_ranks(worlds: Callable[[int], World], tmp_path: Path) -> None:
    runs = {size: worlds(size).run(cases.train, VALUES, str(tmp_path / str(size))) for size in (1, 2, 4)}
    rankings = [torch.load(tmp_path / str(size) / "forgetting.pt") for size in runs]
    counts = rankings[0]["counts"]
    assert len(counts) == 1437 and len(counts.unique()) > 2
    assert all(each["data"] == "digits" and each["counts"].equal(counts) for each in rankings)
    alone = runs[1][0]
    assert [step for step in alone.losses if step > 66] == [66 + made * 22 // 14 for made in range(1, 15)]
    for ranks in runs.values():
        for trained in ranks:
            assert trained.digests == alone.digests
            assert trained.losses == pytest.approx(alone.losses, rel=1e-9)
