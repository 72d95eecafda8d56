"""Exact selection, against a plain sort by (-score, index)."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

from dist_sparse.sparsity.scores import magnitude
from dist_sparse.sparsity.selection import _kth_largest, at_least_top_k, best_of_all_rows, drop_and_grow, top_k

FEW_VALUES = st.sampled_from([0.0, 0.25, 1.0, 3.0])
MANY_VALUES = st.floats(0, 2.0**90, width=32)


def plain_top_k(score: list[float], k: int, among: list[bool]) -> list[bool]:
    """One row, the slow way."""
    order = sorted((i for i in range(len(score)) if among[i]), key=lambda i: (-score[i], i))
    best = set(order[:k])
    return [i in best for i in range(len(score))]


def plain_rows(score: Tensor, k: Tensor, among: Tensor) -> list[list[bool]]:
    return [plain_top_k(*row) for row in zip(score.tolist(), k.tolist(), among.tolist(), strict=True)]


@st.composite
def rows(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[Tensor, Tensor]:
    """Scores [S, U] and bool candidates [S, U]."""
    sets, units = draw(st.integers(1, 4)), draw(st.integers(1, 24))
    score = draw(st.lists(values, min_size=sets * units, max_size=sets * units))
    among = draw(st.lists(st.booleans(), min_size=sets * units, max_size=sets * units))
    return torch.tensor(score).view(sets, units), torch.tensor(among).view(sets, units)


@given(rows(FEW_VALUES) | rows(MANY_VALUES), st.data())
def test_top_k_is_the_plain_sort(problem: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    score, among = problem
    k = torch.tensor([data.draw(st.integers(0, count)) for count in among.sum(1).tolist()])
    assert top_k(score, k, among).tolist() == plain_rows(score, k, among)


@given(rows(FEW_VALUES) | rows(MANY_VALUES), st.integers(0, 30), st.data())
def test_the_best_are_chosen_alike_from_those_that_were_kept(
    problem: tuple[Tensor, Tensor], most: int, data: st.DataObject
) -> None:
    """With the scores of all others 0, as they are where growth has but these."""
    score, among = problem
    some = at_least_top_k(score, most, among)
    assert not (some & ~among).any()
    k = torch.tensor([data.draw(st.integers(0, min(most, count))) for count in among.sum(1).tolist()])
    assert top_k(score * some, k, among).tolist() == top_k(score, k, among).tolist()


def test_of_a_long_row_few_more_than_the_best_are_kept() -> None:
    score = torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0))
    some = at_least_top_k(score, 5_000, score < 0.9)
    assert 5_000 <= some.sum() < 10_000 and not (some & (score >= 0.9)).any()


@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("k", [0, 1, 5, 10])
def test_all_equal_scores_go_by_index(sets: int, k: int) -> None:
    chosen = top_k(torch.full((sets, 10), 0.5), torch.full((sets,), k), torch.ones(sets, 10, dtype=torch.bool))
    assert chosen.tolist() == [[True] * k + [False] * (10 - k)] * sets


def test_zeros_that_are_candidates_come_before_larger_ones_that_are_not() -> None:
    score, among = torch.tensor([[5.0, 0.0, 5.0, 0.0]]), torch.tensor([[False, True, False, True]])
    assert top_k(score, torch.tensor([2]), among).tolist() == [[False, True, False, True]]


@given(
    st.lists(FEW_VALUES, min_size=20, max_size=120) | st.lists(MANY_VALUES, min_size=20, max_size=120, unique=True), st.data()
)
def test_kth_largest_is_exact_whatever_the_sample_says(values: list[float], data: st.DataObject) -> None:
    """Strides of 2 and 3 sample short lists too; their bound is often too high."""
    stride = data.draw(st.integers(1, 3))
    among = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    candidates = [value for value, is_candidate in zip(values, among.tolist(), strict=True) if is_candidate]
    assume(candidates)
    k = data.draw(st.integers(1, len(candidates)))
    assert float(_kth_largest(torch.tensor(values), k, among, stride)) == sorted(candidates, reverse=True)[k - 1]


def bound_holds(units: int) -> Tensor:
    return torch.rand(units, generator=torch.Generator().manual_seed(0))


def bound_too_high(units: int) -> Tensor:
    """The sampled positions alone score high, so that far fewer than k values reach the bound."""
    score = bound_holds(units)
    score[::64] += 10
    return score


def bound_amid_ties(units: int) -> Tensor:
    return (bound_holds(units) * 3).floor()


@pytest.mark.parametrize("scores", [bound_holds, bound_too_high, bound_amid_ties])
@pytest.mark.parametrize("k", [1, 64, 700, 1000, 4000, 8191, 8192])
def test_long_row(scores, k: int) -> None:
    score = scores(8192)[None]
    among = torch.ones_like(score, dtype=torch.bool)
    assert top_k(score, torch.tensor([k]), among).tolist() == plain_rows(score, torch.tensor([k]), among)


@given(rows(FEW_VALUES), rows(FEW_VALUES), st.data())
def test_drop_and_grow(keep: tuple[Tensor, Tensor], grow: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    (keep_score, active), (wide, _) = keep, grow
    grow_score = wide.reshape(-1).repeat(active.numel())[: active.numel()].view_as(active)
    drop = torch.tensor([data.draw(st.integers(0, count)) for count in active.sum(1).tolist()])
    kept = torch.tensor(plain_rows(keep_score, active.sum(1) - drop, active))
    after = drop_and_grow(active, kept, grow_score)
    grown = torch.tensor(plain_rows(grow_score, drop, ~kept))
    assert after.tolist() == (kept | grown).tolist()
    assert after.sum(1).tolist() == active.sum(1).tolist()


@given(rows(FEW_VALUES) | rows(MANY_VALUES), st.data())
def test_the_worst_of_all_rows(problem: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    """What the rows lose together is what a sort of all of them as one would drop."""
    score, active = problem
    count = data.draw(st.integers(0, int(active.sum())))
    flat = plain_top_k(score.view(-1).tolist(), int(active.sum()) - count, active.view(-1).tolist())
    kept = best_of_all_rows(score, int(active.sum()) - count, active)
    assert kept.view(-1).tolist() == flat
    assert kept.equal(top_k(score, kept.sum(1), active)), "in every row its best stay"


def test_a_dropped_unit_may_grow_again() -> None:
    """Drop the weights of size 0.1 and 0.3; 0.1 has the largest gradient of all, then an inactive one has."""
    active = torch.tensor([[True, True, True, True, False, False]])
    weight = torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.0, 0.0]])
    gradient = torch.tensor([[9.0, 3.0, 9.0, 0.0, 2.0, 1.0]])
    kept = top_k(weight, torch.tensor([2]), active)
    assert drop_and_grow(active, kept, gradient).tolist() == [[True, True, True, False, True, False]]


def test_each_row_drops_its_own_number() -> None:
    active = torch.tensor([[True, True, False, False]] * 3)
    weight, gradient = torch.tensor([[1.0, 2.0, 0.0, 0.0]] * 3), torch.tensor([[0.0, 0.0, 1.0, 2.0]] * 3)
    after = drop_and_grow(active, top_k(weight, torch.tensor([2, 1, 0]), active), gradient)
    assert after.int().tolist() == [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_of_a_diverging_run_still_give_exact_counts(bad: float) -> None:
    tensor = torch.randn(1, 300, generator=torch.Generator().manual_seed(0))
    tensor[0, ::3] = bad
    active = torch.arange(300)[None] % 2 == 0
    kept = best_of_all_rows(magnitude(tensor), 80, active)
    assert int(kept.sum()) == 80 and int(drop_and_grow(active, kept, magnitude(tensor.flip(1))).sum()) == 150


@pytest.mark.parametrize("sets", [1, 4])
def test_two_calls_agree_bit_for_bit(sets: int) -> None:
    score = (torch.rand(sets, 5000, generator=torch.Generator().manual_seed(3)) * 4).floor()
    k, among = torch.full((sets,), 1234), torch.ones(sets, 5000, dtype=torch.bool)
    assert torch.equal(top_k(score, k, among), top_k(score.clone(), k, among))
