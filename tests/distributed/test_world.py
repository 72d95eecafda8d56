"""The worlds themselves: every rank answers, and one that fails gives its traceback."""

from collections.abc import Callable

import pytest

from tests.distributed import cases
from tests.distributed.world import RankError, World


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_rank_answers(worlds: Callable[[int], World], size: int) -> None:
    assert worlds(size).run(cases.ranks) == [(rank, size, 1) for rank in range(size)]


def test_a_rank_that_fails_does_not_hang_the_others() -> None:
    world = World(2)
    with pytest.raises(RankError, match="rank 1 had enough") as caught:
        world.run(cases.fail_on, 1)
    assert 'raise RuntimeError(f"rank {rank} had enough")' in caught.value.tracebacks[1]
    assert world.run(cases.fail_on, 7) == [0, 1], "the next call gets new processes"
    world.close()
