"""Which rank decides which layer, and one rank's part in it (many ranks: tests/distributed)."""

import hypothesis.strategies as st
import torch
from hypothesis import given

from dist_sparse.sparsity.agreement import Agreement, assign_owners


def test_the_largest_goes_to_the_least_loaded_rank() -> None:
    assert assign_owners({"a": 5, "b": 9, "c": 4, "d": 3}, 2) == {"b": 0, "a": 1, "c": 1, "d": 0}


def test_ties_go_by_name_and_the_lower_rank() -> None:
    assert assign_owners({"b": 1, "a": 1, "c": 1}, 2) == {"a": 0, "b": 1, "c": 0}


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 1000), min_size=1, max_size=20), st.integers(1, 8))
def test_every_layer_has_an_owner_and_loads_are_balanced(sizes: dict[str, int], world_size: int) -> None:
    owners = assign_owners(sizes, world_size)
    assert owners.keys() == sizes.keys() and set(owners.values()) <= set(range(world_size))
    assert owners == assign_owners(dict(reversed(sizes.items())), world_size), "whatever the order of the layers"
    loads = [sum(size for name, size in sizes.items() if owners[name] == rank) for rank in range(world_size)]
    assert max(loads) - min(loads) <= max(sizes.values())


def test_one_rank_decides_everything_in_the_models_order() -> None:
    shapes = {"small": torch.Size((2, 3)), "large": torch.Size((9, 9))}
    agreement = Agreement(shapes, rank=0, world_size=1, device=torch.device("cpu"))
    assert agreement.owned() == ["small", "large"]
    masks = agreement.decide(lambda name: torch.ones(shapes[name], dtype=torch.bool))
    assert {name: mask.shape for name, mask in masks.items()} == shapes
    agreement.verify(lambda: {"small": 1, "large": 2})
