"""One owner a layer decides, and all ranks come to hold what it decided (who owns what: tests/sparsity/test_agreement.py)."""

from collections.abc import Callable

import pytest

from tests.distributed import cases
from tests.distributed.world import World

MANY = {f"layer{number}": (number % 5 + 1, 3 + number) for number in range(9)}
FEW = {"big": (7, 9), "small": (3,)}


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
