"""Forgetting events against the reference's vectors, the ranking's file, and the clock of a run with short epochs."""

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from dist_sparse import distributed
from dist_sparse.config.data import ForgettingConfig
from dist_sparse.config.engine import EngineConfig
from dist_sparse.config.schema import TrainConfig
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.clock import Clock
from dist_sparse.data.efficient import plan_efficient
from dist_sparse.data.forgetting import NEVER_LEARNED, ForgettingCounter, Ranking
from dist_sparse.errors import UserError

VECTORS = Path(__file__).parents[1] / "vectors"
INFO = DataInfo("digits", 10, 1, 8, 1437, 360)


@pytest.fixture(scope="module", autouse=True)
def group():
    started_here = not torch.distributed.is_initialized()
    distributed.start(EngineConfig(device="cpu"))
    yield
    if started_here:
        distributed.stop()


def test_events_and_order_are_the_reference_s() -> None:
    vector = json.loads((VECTORS / "mest_12_forgetting.json").read_text())
    ids = sorted(map(int, vector["correctness"]))
    counter = ForgettingCounter(len(ids), torch.device("cpu"))
    outcomes = torch.tensor([vector["correctness"][str(each)] for each in ids]).bool()
    for presentation in range(outcomes.shape[1]):
        order = torch.randperm(len(ids))
        for part in order.split(3):
            counter.see(part, outcomes[part, presentation])
        counter.end_epoch()
    counts = counter.counts()
    expected = [vector["counts"][str(each)] for each in ids]
    assert counts.tolist() == [NEVER_LEARNED if count == vector["npresentations"] else count for count in expected]
    ranking = Ranking(data="digits", counts=counts)
    assert [ids[position] for position in ranking.order()] == vector["stable_order_by_id"]


def test_a_sample_that_an_epoch_left_out_was_not_presented() -> None:
    counter = ForgettingCounter(2, torch.device("cpu"))
    for outcome in (True, None, False, False):
        if outcome is not None:
            counter.see(torch.tensor([0]), torch.tensor([outcome]))
        counter.end_epoch()
    assert counter.counts().tolist() == [1, NEVER_LEARNED]


def test_a_saved_ranking_removes_as_many_as_asked(tmp_path: Path) -> None:
    """The reference's slice of a saved file is empty."""
    vector = json.loads((VECTORS / "mest_13_sorting_file_slice.json").read_text())
    draws = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 9, (vector["n"],), generator=draws).short()
    Ranking(data="cifar10", counts=counts).save(tmp_path / "forgetting.pt")
    ranking = Ranking.load(tmp_path / "forgetting.pt", data="cifar10", size=vector["n"])
    rest = ranking.without(vector["remove_n"])
    assert vector["n"] - len(rest) == vector["correct_removed"] != vector["reference_removed"]
    gone = torch.ones(vector["n"], dtype=torch.bool).index_fill_(0, rest, False)
    assert counts[gone].max() <= counts[rest].min()
    assert rest.equal(rest.unique())


@pytest.mark.parametrize(("data", "size"), [("cifar100", 1437), ("digits", 1436)])
def test_a_ranking_of_another_data_set_is_refused(tmp_path: Path, data: str, size: int) -> None:
    path = tmp_path / "forgetting.pt"
    Ranking(data=data, counts=torch.zeros(size, dtype=torch.int16)).save(path)
    config = ForgettingConfig(ranking=str(path), remove=10)
    with pytest.raises(UserError, match=f"ranks the {size} samples of {data}, this run has 1437 of digits"):
        plan_efficient(config, TrainConfig(), INFO)


OTHERS = {"number": 5, "nothing": None, "list": [0] * 1437, "scalar": torch.tensor(5), "matrix": torch.zeros(1437, 2)}


@pytest.mark.parametrize("counts", OTHERS.values(), ids=OTHERS)
def test_a_file_of_something_else_is_no_ranking(tmp_path: Path, counts: Any) -> None:
    path = tmp_path / "forgetting.pt"
    torch.save({"data": "digits", "counts": counts}, path)
    with pytest.raises(UserError, match="is not a ranking that a run has saved"):
        plan_efficient(ForgettingConfig(ranking=str(path), remove=10), TrainConfig(), INFO)


@pytest.mark.parametrize(
    ("config", "train", "message"),
    [
        (ForgettingConfig(remove=5), TrainConfig(), "needs data.forgetting.epochs to count over"),
        (ForgettingConfig(ranking="x"), TrainConfig(), "ranking does nothing without"),
        (ForgettingConfig(ranking="absent.pt", remove=5), TrainConfig(), "absent.pt: no such ranking"),
        (ForgettingConfig(ranking=__file__, remove=5), TrainConfig(), "is not a ranking"),
        (ForgettingConfig(epochs=10, remove=5), TrainConfig(epochs=10), "must be at most 9"),
        (ForgettingConfig(epochs=5, remove=1400), TrainConfig(), "at most 1309 can go"),
        (ForgettingConfig(epochs=5, remove=5), TrainConfig(mixup=0.2), "which mixed samples do not have"),
    ],
)
def test_keys_that_do_not_fit_are_refused_in_one_line(config: ForgettingConfig, train: TrainConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan_efficient(config, train, INFO)
    assert "\n" not in str(caught.value)


@given(whole=st.integers(1, 40), part=st.floats(0, 1), epochs=st.integers(1, 5), short_from=st.integers(0, 5))
def test_clock_keeps_epochs_where_they_are(whole: int, part: float, epochs: int, short_from: int) -> None:
    short = max(1, round(part * whole))
    clock = Clock(whole=whole, epochs=epochs, short=short, short_from=short_from)
    step = 0
    for epoch in range(epochs):
        for made in range(whole if epoch < short_from else short):
            assert clock.place(step) == (epoch, made)
            assert step < (step := clock.after(step))
        assert step == (epoch + 1) * whole
    assert step == clock.total


def test_clock_of_whole_epochs_counts_by_one() -> None:
    clock = Clock(whole=7, epochs=2)
    assert [clock.after(step) for step in range(14)] == list(range(1, 15))
