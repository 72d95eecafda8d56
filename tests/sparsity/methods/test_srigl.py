"""Constant fan-in against SRigL's reference (arXiv 2305.02299), corrected where it keeps the wrong weights.

Its ablation, the removal of whole neurons whose salient weights are few, is not implemented: the vector's rows with ablated
neurons and its first layer, which loses two, show what that would do and are not asserted here.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Size

from dist_sparse.sparsity.distributions import allocate
from dist_sparse.sparsity.methods.drop_grow.removal import removal
from dist_sparse.sparsity.selection import drop_and_grow, top_k
from dist_sparse.sparsity.structures import FanIn

Vectors = Callable[[str], dict[str, Any]]


def test_fan_in_is_the_density_rounded(vectors: Vectors) -> None:
    """The reference rounds down."""
    rows = [row for row in vectors("srigl_step")["fan_in"] if not row["ablated"]]
    assert len(rows) == 3
    for row in rows:
        exact = Size(row["shape"])[1:].numel() * (1 - row["sparsity"])
        units = allocate({"w": Size(row["shape"])}, {"w": 1 - row["sparsity"]}, FanIn())["w"]
        assert row["fan_in"] <= exact < row["fan_in"] + 1
        assert units == round(exact) and units - row["fan_in"] in (0, 1)


def test_a_step_without_ablation_is_the_references(vectors: Vectors) -> None:
    step = vectors("srigl_step")["step"]
    assert step["ablated"] == [[0, 1], []]
    weight, gradient, before = (torch.tensor(step[key][1]) for key in ("weights_before", "grads", "masks_before"))
    active = before.bool()
    kept = removal("magnitude", FanIn(), weight, active, step["drop_fraction"], round_up=False)
    assert int(active.sum()) - int(kept.sum()) == int(0.3 * 16)
    after = drop_and_grow(active, kept, gradient.abs())
    assert after.int().tolist() == step["masks_after"][1]
    assert after.sum(1).tolist() == step["fan_in_after"][1]
    torch.testing.assert_close(weight * after, torch.tensor(step["weights_after"][1]), rtol=0, atol=0)


@pytest.mark.parametrize("keep", [1, 4, 9])
def test_rows_with_a_surplus_keep_their_best(vectors: Vectors, keep: int) -> None:
    """The reference cuts them by sorting the mask instead of the scores."""
    case = vectors("srigl_step")["surplus_removal"]
    score = torch.tensor(case["score"])
    kept = top_k(score, torch.full((2,), keep), torch.ones_like(score, dtype=torch.bool))
    assert kept.sum(1).tolist() == [keep, keep], "and a row of equal scores keeps as many"
    best = sorted(score[0].tolist())[-keep:]
    assert sorted(score[0][kept[0]].tolist()) == best
    if keep == case["n_fan_in"]:
        assert best == case["best4"] != case["kept_scores"]
