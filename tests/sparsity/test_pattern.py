"""Structure pattern: which four weights a 3x3 kernel holds, and that it holds them for life; against MEST's vectors."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Size, Tensor

from dist_sparse.seeding import generator
from dist_sparse.sparsity import scores
from dist_sparse.sparsity.distributions import AboveCapacity, allocate, highest_sparsity, uniform
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import KernelPerFilter, Pattern

PATTERN = Pattern()
Vectors = Callable[[str], dict[str, Any]]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prune(weight: Tensor, kernels: int) -> Tensor:
    """The mask of the ``kernels`` best kernels in every filter, each with its best pattern."""
    score = PATTERN.score(weight.abs())
    chosen = top_k(score, torch.full((len(score),), kernels), torch.ones_like(score, dtype=torch.bool))
    return PATTERN.mask(chosen, weight.shape, choose_by=weight.abs())


def every_pattern(vectors: Vectors) -> Tensor:
    """The eight in the reference's order, bool [8, 3, 3]."""
    return torch.tensor(list(vectors("mest_04_pattern_prune")["keep_patterns"].values())).bool()


def test_each_kernel_keeps_the_pattern_of_largest_norm(vectors: Vectors) -> None:
    case = vectors("mest_04_pattern_prune")
    weight = torch.tensor(case["input"])
    mask = prune(weight, 3)
    assert mask.int().tolist() == case["mask"]
    patterns = every_pattern(vectors)
    numbers = (mask[:, :, None] == patterns).all(4).all(3).int().argmax(2) + 1
    assert numbers.tolist() == torch.tensor(case["chosen_pattern_ids"])[:, :, 0].tolist()


def test_patterns_that_tie_go_to_the_first(vectors: Vectors) -> None:
    """The reference loses what is 0 inside a pattern, and a kernel of zeros altogether."""
    case = vectors("mest_04_pattern_prune")
    for weight in (torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), torch.tensor(case["zero_inside_pattern"]["input"])):
        assert prune(weight, 1).int().tolist() == case["all_ones_kernel_mask"]


def test_each_of_the_eight_is_the_best_of_its_own(vectors: Vectors) -> None:
    patterns = every_pattern(vectors)
    assert prune(patterns.float()[:, None], 1)[:, 0].equal(patterns)


def test_a_live_weight_that_is_tiny_is_not_eroded(vectors: Vectors) -> None:
    case = vectors("mest_04_pattern_prune")["erosion_case"]
    weight = torch.tensor(case["input"])
    correct = torch.tensor(case["correct_mask"]).bool()[None, None]
    assert torch.tensor(case["reference_mask"]).sum() == 3
    assert prune(weight, 1).equal(correct), "in double precision the norms do not tie"
    for value in (1e-5, 0.0, 1e-30):
        weight[0, 0, 1, 0] = value
        active = PATTERN.active(correct)
        assert PATTERN.mask(active, weight.shape, before=correct, choose_by=weight.abs()).equal(correct)


def test_connectivity_is_the_same_in_every_filter(vectors: Vectors) -> None:
    """0.6 truncates to 0 kernels of 0.8, and its percentiles lose what ties; counts here are rounded and exact."""
    case = vectors("mest_05_filter_balance")
    weight = torch.tensor(case["input"])
    torch.testing.assert_close(KernelPerFilter().score(weight.abs()), torch.tensor(case["kernel_l2"]))
    for expected in case["cases"]:
        density = 1 - expected["overall_ratio"]
        (units,) = allocate({"w": weight.shape}, {"w": density}, PATTERN).values()
        assert units == round((1 - expected["kernel_ratio"]) * 8)
        if units == 8 - expected["removed_per_filter"]:
            score = KernelPerFilter().score(weight.abs())
            kept = top_k(score, torch.full((2,), units), torch.ones_like(score, dtype=torch.bool))
            assert kept.int().tolist() == expected["kernel_keep"]


def test_pattern_then_connectivity(vectors: Vectors) -> None:
    """The reference's mask but for the fourth weight of a kernel that is exactly 0, which it loses."""
    case = vectors("mest_05_filter_balance")
    weight, expected = torch.tensor(case["input"]), torch.tensor(case["pattern_then_balance_0p9"]["mask"]).bool()
    mask = prune(weight, 2)
    assert PATTERN.active(mask).equal(PATTERN.active(expected))
    assert mask.sum() == 16 == case["pattern_then_balance_0p9"]["nnz"] + 1
    assert not (expected & ~mask).any()
    assert not weight[mask & ~expected].any()


def test_kernels_of_one_weight_are_kernel_per_filter(vectors: Vectors) -> None:
    """The reference lets pattern pass them through; here they are a misfit, and have a structure of their own."""
    case = vectors("mest_05_filter_balance")["one_by_one"]
    weight = torch.tensor(case["input"])
    score = KernelPerFilter().score(weight.abs())
    kept = top_k(score, torch.full((2,), round(8 * (1 - case["ratio"]))), torch.ones_like(score, dtype=torch.bool))
    assert kept.int().tolist() == case["mask"]
    assert PATTERN.misfit(Size((2, 8, 1, 1))) == PATTERN.misfit(Size((2, 8))) == "it has no 3x3 kernels"
    assert PATTERN.misfit(Size((2, 8, 3, 3))) is None


def test_overall_density_is_converted_once(vectors: Vectors) -> None:
    """To kernels per filter, rounded; the reference truncates both what is removed and what is grown."""
    for case in vectors("mest_09_growth_pattern")["cases"]:
        shape, inputs = Size((4, case["C_in"], 3, 3)), case["C_in"]
        lower, upper = (allocate({"w": shape}, {"w": 1 - case[key]}, PATTERN)["w"] for key in ("lower", "upper"))
        assert abs(lower - case["live_after_prune"][0]) <= 1
        assert abs(upper - case["live_after_growth"][0]) <= 1
        assert abs(upper * 4 / (9 * inputs) - (1 - case["upper"])) <= 2 / (9 * inputs), "half a kernel"
        assert (upper > lower) or inputs == 16


@given(st.integers(0, 2**31), st.data())
def test_patterns_are_for_life_and_grown_ones_are_as_asked_for(seed: int, data: st.DataObject) -> None:
    shape = Size((6, 8, 3, 3))
    kept = data.draw(st.integers(1, 8))
    before = prune(noise(*shape, seed=seed), kept)
    active = torch.rand(6, 8, generator=torch.Generator().manual_seed(seed)) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    for choice in (scores.magnitude(noise(*shape, seed=seed + 1)), PATTERN.random_choice(shape, generator("t", seed))):
        after = PATTERN.mask(active, shape, before=before, choose_by=choice)
        stayed = PATTERN.active(before) & active
        assert PATTERN.active(after).equal(active)
        assert after[stayed].equal(before[stayed])
        fresh = active & ~stayed
        assert after[fresh].equal(PATTERN.mask(active, shape, choose_by=choice)[fresh])


def test_random_patterns_are_equally_likely(vectors: Vectors) -> None:
    shape = Size((100, 80, 3, 3))
    active = torch.ones(100, 80, dtype=torch.bool)
    mask = PATTERN.mask(active, shape, choose_by=PATTERN.random_choice(shape, generator("patterns", 0)))
    counts = torch.stack([(mask == pattern).all(3).all(2).sum() for pattern in every_pattern(vectors)])
    assert int(counts.sum()) == 8000
    assert ((counts - 1000) ** 2 / 1000).sum() < 24.3  # chi-square of 7 degrees of freedom: 1 in 1000 above


def test_scores_that_are_not_finite_or_underflow_still_choose() -> None:
    tiny = torch.zeros(1, 1, 3, 3)
    tiny[0, 0, 2] = 1e-30
    assert prune(tiny, 1)[0, 0].int().tolist() == [[0, 0, 0], [0, 0, 1], [1, 1, 1]]
    tiny[0, 0, 0, 0] = torch.inf
    assert prune(tiny, 1)[0, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_a_unit_that_becomes_active_needs_something_to_choose_by() -> None:
    shape = Size((2, 2, 3, 3))
    with pytest.raises(AssertionError, match="needs a score"):
        PATTERN.mask(torch.ones(2, 2, dtype=torch.bool), shape)


def test_capacity() -> None:
    shapes = {"a": Size((8, 4, 3, 3)), "b": Size((8, 64, 3, 3))}
    assert allocate(shapes, uniform(shapes, 4 / 9), PATTERN) == {"a": 4, "b": 64}
    with pytest.raises(AboveCapacity, match=r"layer 'a' would have density 0\.45, and structure pattern holds 4/9 of"):
        allocate(shapes, uniform(shapes, 0.45), PATTERN)
    assert highest_sparsity(shapes, lambda density: uniform(shapes, density), PATTERN) == pytest.approx(1 - 0.0556, abs=1e-4)
