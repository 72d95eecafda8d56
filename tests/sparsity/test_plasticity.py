"""The six probes on tensors made by hand (on several ranks: tests/plasticity)."""

from collections.abc import Mapping
from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.plasticity import PROBES

ONE, HALF = Fraction(1), Fraction(1, 2)


def agreement_for(tensors: Mapping[str, Tensor]) -> Agreement:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return Agreement(shapes, rank=0, world_size=1, device=torch.device("cpu"))


def probe(
    name: str, rate: Fraction, weights: dict[str, Tensor], masks: dict[str, Tensor], gradients: dict[str, Tensor] | None = None
) -> tuple[dict[str, list], dict[str, list]]:
    """The masks after pruning and after growth, as lists of 0 and 1."""
    agreement = agreement_for(weights)
    kept = PROBES[name].prune(rate, weights, masks, agreement)
    grown = PROBES[name].grow(masks, kept, gradients or {}, agreement)
    return tuple({name: mask.int().tolist() for name, mask in each.items()} for each in (kept, grown))  # type: ignore


def dense(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


WEIGHTS = {"a": torch.tensor([[0.1, -0.9, 0.2, 0.0]]), "b": torch.tensor([[-5.0, 4.0], [0.15, 3.0]])}


def test_there_are_the_six_that_the_repository_names() -> None:
    assert sorted(PROBES) == sorted(
        f"prune_{how}{scope}" for how in ("", "and_grow_") for scope in ("uniform", "global", "structured")
    )


def test_uniform_takes_the_smallest_of_each_layer_and_global_of_all() -> None:
    masks = dense(WEIGHTS)
    assert probe("prune_uniform", HALF, WEIGHTS, masks)[1] == {"a": [[0, 1, 1, 0]], "b": [[1, 1], [0, 0]]}
    assert probe("prune_global", HALF, WEIGHTS, masks)[1] == {"a": [[0, 1, 0, 0]], "b": [[1, 1], [0, 1]]}


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(("rate", "left"), [("0.01", 99), ("0.29", 71), ("0.295", 70), ("0.3", 70), ("0.999", 0), ("1/3", 66)])
def test_the_weights_that_go_are_rounded_up_exactly(scope: str, rate: str, left: int) -> None:
    weights = {"a": torch.arange(1.0, 101).view(10, 10)}
    kept, _ = probe(f"prune_{scope}", Fraction(rate), weights, dense(weights))
    assert sum(map(sum, kept["a"])) == left


@pytest.mark.parametrize(("rate", "left"), [("0.09", 10), ("0.1", 9), ("0.29", 8), ("0.3", 7), ("0.999", 1)])
def test_the_filters_that_go_are_rounded_down_exactly(rate: str, left: int) -> None:
    weights = {"a": torch.arange(1.0, 21).view(10, 2)}
    kept, _ = probe("prune_structured", Fraction(rate), weights, dense(weights))
    assert kept["a"] == [[0, 0]] * (10 - left) + [[1, 1]] * left


def test_the_rate_is_of_what_is_active_and_an_active_zero_counts() -> None:
    weights = {"a": torch.tensor([[0.0, 0.0, 3.0, 0.0, 0.0, 2.0]])}
    masks = {"a": torch.tensor([[True, False, True, True, False, True]])}
    for scope in ("uniform", "global"):
        assert probe(f"prune_{scope}", HALF, weights, masks)[1] == {"a": [[0, 0, 1, 0, 0, 1]]}
        assert probe(f"prune_{scope}", Fraction(1, 4), weights, masks)[1] == {"a": [[1, 0, 1, 0, 0, 1]]}, "the first of equals"


@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_each_layer_grows_what_it_lost_at_the_largest_gradients(scope: str) -> None:
    masks = {"a": torch.tensor([[True, True, True, False]]), "b": torch.tensor([[True, False], [True, False]])}
    gradients = {"a": torch.tensor([[0.0, -9.0, 1.0, -2.0]]), "b": torch.tensor([[9.0, 1.0], [2.0, 0.5]])}
    kept, grown = probe(f"prune_and_grow_{scope}", Fraction(2, 5), WEIGHTS, masks, gradients)
    if scope == "uniform":  # two of three and one of two go, and of those that went one grows again
        assert kept == {"a": [[0, 1, 0, 0]], "b": [[1, 0], [0, 0]]}
    else:  # two of five: 0.1 and 0.15
        assert kept == {"a": [[0, 1, 1, 0]], "b": [[1, 0], [0, 0]]}
    assert grown == {"a": [[0, 1, 1, 1]], "b": [[1, 0], [1, 0]]}


FILTERS = {"a": torch.tensor([[3.0, 0.0, 0.0], [2.0, 2.0, 0.0], [-1.0, -1.0, -0.5], [9.0, 9.0, 9.0]])}
MASK = {"a": torch.tensor([[True, False, False], [True, True, True], [True, True, False], [False] * 3])}


def test_filters_are_ranked_by_their_active_weights_and_keep_their_own_mask() -> None:
    """Three filters are active, of sums 3, 4 and 2; a norm would put 3 before 4, and -0.5 lies outside the mask."""
    assert probe("prune_structured", Fraction(1, 3), FILTERS, MASK)[1]["a"] == [[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert probe("prune_structured", Fraction(2, 3), FILTERS, MASK)[1]["a"] == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert probe("prune_structured", Fraction(33, 100), FILTERS, MASK)[1]["a"] == MASK["a"].int().tolist()


def test_as_many_filters_and_weights_grow_as_went() -> None:
    gradients = {"a": torch.tensor([[99.0, 0.0, 0.0], [99.0, 0, 0], [2.0, 2.0, 2.0], [0.0, 5.5, -1.0]])}
    _, grown = probe("prune_and_grow_structured", Fraction(1, 3), FILTERS, MASK, gradients)
    assert grown["a"] == [[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]], "two weights of the filter whose sum is largest"


@pytest.mark.parametrize("name", PROBES)
@given(st.data())
def test_counts_are_exact_whatever_ties_and_masks_there_are(name: str, data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3))
    few = st.sampled_from([0.0, -1.0, 0.5, 1.0])

    def draw(values: st.SearchStrategy) -> dict[str, Tensor]:
        return {
            str(number): torch.tensor(
                data.draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
            ).view(rows, columns)
            for number, (rows, columns) in enumerate(shapes)
        }  # fmt: skip

    weights, gradients, masks = draw(few), draw(few), draw(st.booleans())
    rate = data.draw(st.fractions(0, 1, max_denominator=20))
    probing, agreement = PROBES[name], agreement_for(weights)
    kept = probing.prune(rate, weights, masks, agreement)
    grown = probing.grow(masks, kept, gradients, agreement)
    counts = {layer: int(mask.sum()) for layer, mask in masks.items()}
    assert all((kept[layer] & ~masks[layer]).sum() == 0 for layer in masks)
    if probing.globally:
        assert sum(int(mask.sum()) for mask in kept.values()) == (ONE - rate) * sum(counts.values()) // 1
    elif probing.filters:
        filters = {layer: int(mask.any(1).sum()) for layer, mask in masks.items()}
        assert {layer: int(mask.any(1).sum()) for layer, mask in kept.items()} == {
            layer: count - rate * count // 1 for layer, count in filters.items()
        }
    else:
        assert {layer: int(mask.sum()) for layer, mask in kept.items()} == {
            layer: (ONE - rate) * count // 1 for layer, count in counts.items()
        }
    assert all((kept[layer] & ~grown[layer]).sum() == 0 for layer in masks)
    expected = masks if probing.grows else kept
    assert {layer: int(mask.sum()) for layer, mask in grown.items()} == {
        layer: int(mask.sum()) for layer, mask in expected.items()
    }
