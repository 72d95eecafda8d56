"""One owner a layer decides, and all ranks come to hold what it decided."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_sparse.sparsity.agreement import assign_owners
from tests.distributed import cases
from tests.distributed.world import World

MANY = {f"layer{number}": (number % 5 + 1, 3 + number) for number in range(9)}
FEW = {"big": (7, 9), "small": (3,)}


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 1000), min_size=1), st.integers(1, 8))
def test_owners_are_balanced(sizes: dict[str, int], world_size: int) -> None:
    """No rank has more than another by more than one layer's weights, and the order of the layers does not matter."""
    owners = assign_owners(sizes, world_size)
    assert owners.keys() == sizes.keys()
    assert owners == assign_owners(dict(reversed(sizes.items())), world_size)
    loads = [sum(sizes[name] for name in sizes if owners[name] == rank) for rank in range(world_size)]
    assert max(loads) - min(loads) <= max(sizes.values())


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("sizes", [MANY, FEW], ids=["many", "fewer layers than ranks"])
def test_every_rank_gets_what_the_owner_chose(
    worlds: Callable[[int], World], size: int, sizes: dict[str, tuple[int, ...]]
) -> None:
    answers = worlds(size).run(cases.decide, sizes)
    assert sorted(name for owned, *_ in answers for name in owned) == sorted(sizes)
    for owned, gathered, chosen in answers:
        assert chosen.keys() == set(owned), "nobody selects for a layer of another rank"
        assert list(gathered) == (list(sizes) if size > 1 else owned)
        assert gathered == answers[0][1]
        assert {name: gathered[name] for name in owned} == chosen
