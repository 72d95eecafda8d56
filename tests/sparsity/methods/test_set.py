"""SET's removal and growth, where the references are wrong: by magnitude, and exact counts."""

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig, UpdateConfig
from dist_sparse.sparsity.scores import magnitude
from dist_sparse.sparsity.selection import best_of_all_rows, drop_and_grow


def config(interval: int = 1) -> SparsityConfig:
    update = UpdateConfig(interval=Length(interval, "steps"), drop_fraction=0.5, drop_schedule="constant")
    return SparsityConfig(method="set", density=0.1, distribution="uniform", update=update)


def masks_over_steps(small_run, steps: int, seed: int = 0) -> list[Tensor]:
    """The masks of a layer with 10,000 weights, 1,000 active, of which 500 are dropped and grown at each step."""
    torch.manual_seed(0)
    model = nn.Linear(100, 100, bias=False)
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config(), seed=seed)
    masks = [run.method.masks["weight"]]
    for step in range(steps):
        before = model.weight.detach().clone()
        run.step(torch.randn(4, 100, generator=torch.Generator().manual_seed(step)), torch.arange(4))
        masks.append(run.method.masks["weight"])
        kept = magnitude(before)[masks[-2]].kthvalue(500).values
        assert (masks[-1] | ~masks[-2] | (before.abs() <= kept)).all(), "only the smaller half may go"
    return masks


def test_growth_is_an_exact_count(small_run, vectors) -> None:
    reference = vectors("itop")["random_growth"]
    assert set(reference["grown"]) != {reference["requested"]}, "the reference draws each weight by itself"
    masks = masks_over_steps(small_run, 20)
    assert {int(mask.sum()) for mask in masks} == {1000}


def test_growth_depends_on_seed_and_step_and_nothing_else(small_run) -> None:
    first = masks_over_steps(small_run, 3)
    torch.rand(100)  # the global generator plays no part
    assert all(torch.equal(a, b) for a, b in zip(first, masks_over_steps(small_run, 3), strict=True))
    other = masks_over_steps(small_run, 3, seed=1)
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_growth_scores_differ_between_seeds_steps_and_layers(small_run) -> None:
    model = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(20, 20, bias=False))
    method, other = (
        small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config(), seed=seed).method for seed in (0, 1)
    )
    score = method.grow_score("0.weight", 5)
    assert score.shape == (1, 400)
    assert torch.equal(score, method.grow_score("0.weight", 5))
    assert not torch.equal(score, other.grow_score("0.weight", 5))
    assert not torch.equal(score, method.grow_score("0.weight", 6))
    assert not torch.equal(score, method.grow_score("1.weight", 5))


def test_growth_is_uniform(small_run) -> None:
    """Over many steps every weight comes first about equally often: no favour for low indices."""
    model = nn.Linear(10, 2, bias=False)
    method = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config()).method
    first = torch.stack([method.grow_score("weight", step).argmax() for step in range(2000)]).bincount(minlength=20)
    assert (first - 100).abs().max() < 45  # 4.6 standard deviations


def test_removal_is_by_magnitude_for_both_signs(vectors) -> None:
    """The reference's split by sign keeps the wrong negative weights; |w| decides here, as in the corrected answer."""
    death = vectors("itop")["set_death"]
    weight = torch.tensor(death["weights"])
    active = weight != 0
    drop = round(death["removal_rate"] * int(active.sum()))
    # Growth is scored zero, so that the dropped grow back in the order of their index: what was kept is in any case.
    kept = active & ~(magnitude(weight) < magnitude(weight)[active].sort().values[drop])
    assert kept.int().tolist() == death["correct_mask"] == death["magnitude_mask"] != death["set_reference_mask"]
    assert best_of_all_rows(magnitude(weight), int(active.sum()) - drop, active).equal(kept)
    after = drop_and_grow(active, kept, torch.zeros_like(weight))
    assert (after & kept).equal(kept) and int(after.sum()) == int(active.sum())


@pytest.mark.parametrize("interval", [2, 3])
def test_masks_rest_between_updates(small_run, interval: int) -> None:
    model = nn.Linear(30, 30, bias=False)
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config(interval))
    for step in range(1, 8):
        before = run.method.masks.digest()
        decision = run.step(torch.randn(4, 30), torch.arange(4))
        assert decision.updates_masks == (step % interval == 0) == (run.method.masks.digest() != before)
