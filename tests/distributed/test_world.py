"""The worlds themselves: every rank answers, and one that fails gives its traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed import cases, forks
from tests.distributed.world import RankError, World
from tests.values import QUIET


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


def test_a_run_imports_nothing_slow_that_it_does_not_need(tmp_path: Path) -> None:
    """scikit-learn, where the digits lie, and SciPy, which shuffled blocks need, would make every start longer by a second."""
    values = {**QUIET, "data.limit": 64, "train.batch_size": 32, "train.epochs": 1, "sparsity.density": 0.3}
    (ended,) = forks.live(1, cases.slow_imports, {**values, "output": tmp_path / "run"}, folder=tmp_path)
    assert (ended.code, ended.said) == (0, "[]\n")
