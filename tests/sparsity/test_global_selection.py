"""Selection over all layers is a sort's, ties and all (on several ranks: tests/distributed/test_global_selection.py)."""

from collections.abc import Mapping

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from dist_sparse.sparsity.global_selection import global_top_k

CPU = torch.device("cpu")


def sorted_top_k(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], k: int, sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """The same by sorting (score, layer, index)."""
    order = [
        (-value, number, index)
        for number, (name, score) in enumerate(scores.items())
        for index, value in enumerate(score.view(-1).tolist())
        if among[name].view(-1)[index]
    ]
    chosen = {name: torch.zeros_like(mask) for name, mask in among.items()}
    names = list(scores)
    for _, number, index in sorted(order):
        k -= sizes[names[number]]
        if k < 0:
            break
        chosen[names[number]].view(-1)[index] = True
    return chosen


def select(
    scores: Mapping[str, Tensor], among: Mapping[str, Tensor], k: int, sizes: Mapping[str, int] | None = None
) -> dict[str, Tensor]:
    dtype = next(iter(scores.values())).dtype
    sizes = sizes or dict.fromkeys(scores, 1)
    return global_top_k(
        scores, among, k, layers=list(scores), sizes=sizes, dtype=dtype, device=CPU, total=lambda counts: counts
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(st.data())
def test_is_a_sort_with_ties_broken_by_layer_and_index(dtype: torch.dtype, data: st.DataObject) -> None:
    values = st.sampled_from([0.0, 1e-45, 1e-38, 0.1, 0.1000001, 0.5, 1.0, 3e38, float("inf")])
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    scores = {
        f"layer{number}": torch.tensor([data.draw(st.lists(values, min_size=length, max_size=length))], dtype=dtype)
        for number, length in enumerate(lengths)
    }
    among = {
        name: torch.tensor(data.draw(st.lists(st.booleans(), min_size=score.numel(), max_size=score.numel())))[None]
        for name, score in scores.items()
    }
    sizes = {name: data.draw(st.integers(1, 3)) for name in scores}
    k = data.draw(st.integers(0, sum(lengths) + 2))
    chosen, expected = select(scores, among, k, sizes), sorted_top_k(scores, among, k, sizes)
    assert all(torch.equal(chosen[name], expected[name]) for name in scores)


@pytest.mark.parametrize("k", [0, 1, 777, 3000, 4999, 5000])
def test_many_units(k: int) -> None:
    draws = torch.Generator().manual_seed(k)
    scores = {"a": torch.rand(1, 3000, generator=draws), "b": torch.rand(1, 2000, generator=draws).mul(50).round() / 50}
    among = {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    chosen, expected = select(scores, among, k), sorted_top_k(scores, among, k, {"a": 1, "b": 1})
    assert sum(int(mask.sum()) for mask in chosen.values()) == k
    assert all(torch.equal(chosen[name], expected[name]) for name in scores)


@pytest.mark.parametrize("active", [1990, 2000, 2010])
def test_no_threshold_explodes_or_keeps_one_less(vectors, active: int) -> None:
    """The references compare with a threshold: 10,000 stay where it is 0, or one less than planned."""
    rows = [row for row in vectors("granet_reference_bugs")["ge_zero_threshold"] if row["active_before"] == active]
    assert min(active, 2000) not in {row["active_after"] for row in rows if row["code"] == "imagenet"}
    mask = torch.arange(10_000)[None] < active
    score = torch.rand(1, 10_000, generator=torch.Generator().manual_seed(0)) * mask
    (chosen,) = select({"w": score}, {"w": mask}, 2000).values()
    assert int(chosen.sum()) == min(active, 2000) and not (chosen & ~mask).any()
