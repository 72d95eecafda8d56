"""What a run goes on with of its running means."""

from collections.abc import Iterator

import pytest
import torch

from dist_sparse.distributed import Ranks
from dist_sparse.meter import Meter
from tests import process_group


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    with process_group.of_one():
        yield


def going_on(*rows: list[float]) -> Meter:
    """A meter on one rank, with the sum and the number of losses that each rank of a run had when it was saved."""
    meter = Meter(Ranks(rank=0, world_size=1, device=torch.device("cpu")))
    nothing = [[0.0, 0.0] for _ in rows]
    meter.load_state_dict({"loss": list(rows), "of_epoch": nothing})
    return meter


def step(meter: Meter, loss: float, *, undone: bool = False) -> None:
    meter.add(torch.tensor(loss), 8)
    meter.end_step(undone=undone)


def test_steps_on_more_ranks_weigh_as_much_as_others() -> None:
    """Two steps of mean 1.5 on two ranks, and one of 6 on one rank."""
    meter = going_on([2.0, 2.0], [4.0, 2.0])
    step(meter, 6.0)
    assert meter.read()["train/loss"] == pytest.approx((1.5 + 1.5 + 6) / 3)
    assert meter.read_epoch() == pytest.approx((1.5 + 1.5 + 6) / 3)


def test_an_undone_step_leaves_the_sum_that_was_saved() -> None:
    meter = going_on([3.0, 2.0])
    step(meter, float("nan"), undone=True)
    step(meter, 6.0)
    assert meter.read()["train/loss"] == pytest.approx((1.5 + 1.5 + 6) / 3)
