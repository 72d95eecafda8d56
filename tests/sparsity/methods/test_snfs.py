"""SNFS: shares and masks of the reference, with a total that does not change."""

from fractions import Fraction

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig, UpdateConfig
from dist_sparse.sparsity.methods.drop_grow.redistribution import apportion, capacities, shares_of


@pytest.mark.parametrize("number", [0, 1], ids=["momentum", "nonzeros"])
def test_a_step_is_the_references_with_an_exact_total(small_run, vectors, number: int) -> None:
    case = vectors("snfs_step")["cases"][number]
    weights, masks, momentum = (list(map(torch.tensor, case[key])) for key in ("weights", "masks", "momentum"))
    model = nn.ModuleList(nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights)
    update = UpdateConfig(
        drop_fraction=case["prune_rate"],
        drop_schedule="constant",
        redistribution="momentum" if number == 0 else "nonzeros",
    )
    run = small_run(
        model, torch.optim.SGD(model.parameters(), lr=0.1), SparsityConfig(method="snfs", density=0.4, update=update)
    )
    names = run.method.masks.names
    run.method.replace_masks(dict(zip(names, (mask.bool() for mask in masks), strict=True)))
    for name, weight, average in zip(names, weights, momentum, strict=True):
        model.get_parameter(name).data.copy_(weight)
        run.method._gradients.averages[name] = average.clone()
    run.method.update(1, 1)

    counts = list(run.method.masks.active().values())
    after = [torch.tensor(mask).bool() for mask in case["masks_after"]]
    assert sum(counts) == sum(case["nnz_before"]) == 70
    assert counts == ([26, 23, 21] if number == 0 else case["nnz_after"]), "the reference makes 71 by shares of momentum"
    for name, expected, count in zip(names, after, counts, strict=True):
        mask = run.method.masks[name]
        assert not (mask & ~expected).any() and int(expected.sum()) - count in (0, 1 - number)


@given(st.data())
def test_every_weight_that_was_dropped_is_grown(data: st.DataObject) -> None:
    names = [f"layer{number}" for number in range(data.draw(st.integers(1, 5)))]
    units = {name: data.draw(st.integers(1, 40)) for name in names}
    active = {name: data.draw(st.integers(0, units[name])) for name in names}
    dropped = {name: data.draw(st.integers(0, active[name])) for name in names}
    importances = {name: data.draw(st.sampled_from([0.0, 1e-30, 0.3, 1.0, 7.0, float("nan")])) for name in names}
    total = sum(dropped.values())
    capacity = capacities(units, {name: active[name] - dropped[name] for name in names}, total)
    grown = apportion(total, shares_of(importances), capacity)
    assert sum(grown.values()) == total
    assert all(0 <= grown[name] <= capacity[name] for name in names)


def test_what_does_not_fit_goes_to_the_others() -> None:
    shares = {"a": Fraction(9, 10), "b": Fraction(1, 10), "c": Fraction(0)}
    assert apportion(10, shares, {"a": 3, "b": 20, "c": 20}) == {"a": 3, "b": 4, "c": 3}


def test_shares_are_rounded_once() -> None:
    """Without rounding a gets 7.07 and b 7.93; rounded in the first round too, a would have 5 + 3 and b 5 + 2."""
    shares = {"a": Fraction(2814, 10000), "b": Fraction(3351, 10000), "c": Fraction(3835, 10000)}
    assert apportion(16, shares, {"a": 100, "b": 100, "c": 1}) == {"a": 7, "b": 8, "c": 1}


def water_levels(total: int, shares: list[Fraction], capacity: list[int]) -> list[Fraction]:
    """What each layer gets before rounding, slowly: what is still to be given rises evenly over all that have capacity."""
    got = [Fraction(0)] * len(shares)
    for layer, share in enumerate(shares):
        got[layer] = min(share * total, Fraction(capacity[layer]))
    while sum(got) < total:
        open_layers = [layer for layer in range(len(got)) if got[layer] < capacity[layer]]
        drop = min(capacity[layer] - got[layer] for layer in open_layers)  # until the next layer is full
        drop = min(drop, (total - sum(got)) / len(open_layers))
        for layer in open_layers:
            got[layer] += drop
    return got


@given(st.data())
def test_no_layer_is_further_from_its_share_than_one_weight(data: st.DataObject) -> None:
    """Against a slow version: each layer gets its exact amount rounded down or up, and up goes to the largest remainders."""
    count = data.draw(st.integers(1, 6))
    importances = data.draw(st.lists(st.floats(0, 10), min_size=count, max_size=count))
    capacity = data.draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))
    total = data.draw(st.integers(0, sum(capacity)))
    names = [f"layer{number}" for number in range(count)]
    shares = shares_of(dict(zip(names, importances, strict=True)))
    given_out = list(apportion(total, shares, dict(zip(names, capacity, strict=True))).values())
    exact = water_levels(total, list(shares.values()), capacity)
    assert sum(given_out) == total
    assert all(got <= most for got, most in zip(given_out, capacity, strict=True))
    more = [got - int(value) for got, value in zip(given_out, exact, strict=True)]
    assert set(more) <= {0, 1}
    rest = [value - int(value) for value in exact]
    assert min((r for r, up in zip(rest, more, strict=True) if up), default=Fraction(1)) >= max(
        (r for r, up in zip(rest, more, strict=True) if not up), default=Fraction(0)
    )


@pytest.mark.parametrize("redistribution", ["none", "magnitude", "momentum", "nonzeros"])
@pytest.mark.parametrize("method", ["snfs", "set", "rigl"])
def test_the_total_stays_and_layers_move(small_run, method: str, redistribution: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4))
    update = UpdateConfig(interval=Length(1, "steps"), drop_fraction=0.4, redistribution=redistribution)
    run = small_run(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        SparsityConfig(method=method, density=0.5, update=update),
    )
    first = run.method.masks.active()
    for step in range(15):
        run.step(torch.randn(6, 10, generator=torch.Generator().manual_seed(step)), torch.arange(6) % 4)
        assert sum(run.method.masks.active().values()) == sum(first.values())
        for name in run.method.masks.names:
            inactive = ~run.method.masks[name]
            assert not model.get_parameter(name)[inactive].any()
            assert all(not tensor[inactive].any() for tensor in run.per_weight_state(name).values())
    moved = run.method.masks.active() != first
    assert moved if redistribution in ("magnitude", "momentum") else (redistribution == "nonzeros" or not moved)
