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


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("sizes", [MANY, FEW], ids=["many", "fewer layers than ranks"])
def test_kept_gradients_are_their_owner_s_and_a_checkpoint_has_all(
    worlds: Callable[[int], World], size: int, sizes: dict[str, tuple[int, ...]]
) -> None:
    answers = worlds(size).run(cases.keep_gradients, sizes)
    for answer in answers:
        assert answer["held"] == [answer["owned"], answer["owned"]]
        assert answer["states"] == answers[0]["states"]
    for number, name in enumerate(sizes):
        sums, averages = ([state[what][name] for state in answers[0]["states"]] for what in ("gradients", "averages"))
        assert sums == [[1.0 + number], [3.0 + 2 * number], [6.0 + 3 * number]]
        assert averages[1] == averages[0] == [pytest.approx(0.1 * (1 + number))], "one layer of the second step is not finite"
        assert averages[2] == [pytest.approx(0.09 * (1 + number) + 0.1 * (3 + number))]
