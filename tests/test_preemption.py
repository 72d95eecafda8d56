"""A run that a signal stops ends in good order, and goes on as if nothing had happened."""

import json
import signal
from pathlib import Path
from signal import SIGINT, SIGTERM, SIGUSR1

import pytest

from dist_sparse.checkpoint import CheckpointStore
from tests.asking import asked
from tests.command import metrics, train_here
from tests.values import QUIET, TINY_VIT

RUN = {
    **QUIET,
    "tracking.log_every": 2,
    "resume": "auto",
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "proj_drop_rate": 0.1},
    "train.epochs": 2,
    "train.batch_size": 256,
    "train.eval_batch_size": 64,
    "train.accumulation": 2,
    "train.ema": 0.9,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "2 steps",
}
"""10 steps in 2 epochs; 6 batches of validation, of the network and of its average."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert train_here({**RUN, "output": folder}).code == 0
    return folder


def reason(folder: Path) -> str:
    return json.loads((folder / "summary.json").read_text())["exit_reason"]


def weights(folder: Path) -> dict[str, list[float]]:
    state = CheckpointStore.load(folder / "checkpoints" / "step_00000010.pt")["state_dict"]
    return {name: tensor.tolist() for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("place", "call", "stopped_at"),
    [("start", 1, 0), ("step", 3, 3), ("step", 5, 5), ("validation", 2, 5), ("validation", 8, 5), ("step", 10, 10)],
)
def test_a_signal_stops_the_run_which_then_goes_on(tmp_path: Path, whole: Path, place: str, call: int, stopped_at: int) -> None:
    values = {**RUN, "output": tmp_path}
    with asked(place, call, SIGUSR1) as hooks:
        outcome = train_here(values, hooks=hooks)
    assert outcome.code == 75
    assert f"stopped by SIGUSR1 after step {stopped_at} of 10; the last checkpoint is " in outcome.out
    assert (tmp_path / "preempted").read_text() == f"SIGUSR1 at step {stopped_at}\n"
    assert reason(tmp_path) == "preempted"
    outcome = train_here(values)
    assert outcome.code == 0
    assert f"going on after step {stopped_at} of 10" in outcome.out
    assert not (tmp_path / "preempted").exists()
    assert reason(tmp_path) == "finished"
    assert metrics(tmp_path) == metrics(whole)
    assert weights(tmp_path) == weights(whole)


def test_more_signals_while_it_saves_harm_nothing(tmp_path: Path, whole: Path) -> None:
    values = {**RUN, "output": tmp_path}
    with asked("step", 4, SIGTERM) as hooks, asked("saving", 1, SIGTERM, SIGUSR1, SIGINT):
        assert train_here(values, hooks=hooks).code == 75
    assert (tmp_path / "preempted").read_text() == "SIGTERM at step 4\n"
    assert train_here(values).code == 0
    assert metrics(tmp_path) == metrics(whole)


def test_ctrl_c_saves_too_but_asks_for_no_new_start(tmp_path: Path, whole: Path) -> None:
    values = {**RUN, "output": tmp_path}
    with asked("step", 3, SIGINT) as hooks:
        assert train_here(values, hooks=hooks).code == 130
    assert not (tmp_path / "preempted").exists()
    assert reason(tmp_path) == "interrupted"
    assert "going on after step 3 of 10" in train_here(values).out
    assert metrics(tmp_path) == metrics(whole)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with asked("step", 3, SIGINT, SIGINT) as hooks:
        assert train_here({**RUN, "output": tmp_path}, hooks=hooks).code == 130
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_signal_after_the_last_validation_comes_too_late(tmp_path: Path) -> None:
    with asked("saving", 2, SIGTERM):
        assert train_here({**RUN, "output": tmp_path}).code == 0
    assert reason(tmp_path) == "finished"


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with asked("step", 4, SIGTERM) as hooks:
        outcome = train_here({**RUN, "sparsity.method": "static", "optim.lr": 1e30, "output": tmp_path}, hooks=hooks)
    assert outcome.code == 75
    assert "no checkpoint at step 4" in outcome.err
    assert "there is no checkpoint" in outcome.out


def test_the_process_has_its_handlers_back(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (SIGUSR1, SIGTERM, SIGINT)}
    with asked("step", 1, SIGUSR1) as hooks:
        assert train_here({**RUN, "output": tmp_path}, hooks=hooks).code == 75
    assert {number: signal.getsignal(number) for number in before} == before
