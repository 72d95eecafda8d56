"""What every method must do, tried on the small configurations that are shipped: one for each method and option."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.config import load_config
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.trainer import Moment, Trainer
from tests.command import ROOT, metrics, train_here
from tests.plan.forecasts import check
from tests.values import QUIET, SMALL_RESNET

CONFIGS = sorted((ROOT / "configs" / "digits").glob("*.yaml"))
SHORT: dict[str, Any] = {
    **QUIET,
    "tracking.log_every": 2,
    **SMALL_RESNET,
    "data.limit": 352,
    "train.epochs": 2,
    "train.batch_size": 32,
    "train.accumulation": 2,
    "scheduler.warmup": "2 steps",
    "checkpoint.every": "6 steps",
    "resume": "auto",
}
"""22 steps."""


def short(path: Path) -> dict[str, Any]:
    """The configuration with an update at every fourth step, or every other epoch's worth of them."""
    config = load_config(str(path)).sparsity
    keys = {**SHORT, "config": path}
    if config.method in ("granet", "snfs") or config.init == "snip":  # whose forecast is a guess
        keys |= {"model.name": "cifar_resnet20", "model.kwargs": {"width": 0.5, "blocks": 1}}
    if config.update.interval is not None:
        keys["sparsity.update.interval"] = "4 steps"
    if config.method == "ast":
        keys["sparsity.ast.offset"] = "1 steps"
    return keys


def test_there_is_one_for_every_method() -> None:
    assert {load_config(str(path)).sparsity.method for path in CONFIGS} == set(METHODS)


class NothingComesBack:
    """Fails a run in which a weight becomes active again after the method has said that none will."""

    def __init__(self) -> None:
        self._settled: dict[str, torch.Tensor] = {}

    def __call__(self, moment: Moment, trainer: Trainer) -> None:
        method = trainer.method
        if moment is not Moment.STEP_ENDED:
            return
        packed = method.masks.packed()
        back = [name for name, before in self._settled.items() if (packed[name] & ~before).any()]
        assert not back, f"step {trainer.progress.step}: {back}"
        if method.settled(trainer.progress.step):
            self._settled = {name: bits.clone() for name, bits in packed.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """``whole(path)`` is the folder of the configuration's run, which is made once and which nothing interrupts."""

    @functools.cache
    def train(path: Path) -> Path:
        folder = tmp_path_factory.mktemp(path.stem)
        assert train_here({**short(path), "output": folder}, hooks=[NothingComesBack()]).code == 0
        return folder

    return train


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_goes_on_as_if_nothing_had_happened(whole: Callable[[Path], Path], tmp_path: Path, path: Path) -> None:
    """Interrupted after an update, and gone on from a checkpoint before it."""
    values = {**short(path), "output": tmp_path}
    assert train_here(values, interrupt_after=13).code == 130
    outcome = train_here(values)
    assert "going on after step 12 of 22" in outcome.out
    assert metrics(tmp_path) == metrics(whole(path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_run_does_what_was_forecast_of(whole: Callable[[Path], Path], path: Path) -> None:
    check(short(path), whole(path))


def test_weights_that_are_not_trained_keep_no_momentum_of_their_decay(tmp_path: Path) -> None:
    """Top-KAST's are not 0; interrupted between two updates, of which each would end what momentum they have."""
    values = {**short(ROOT / "configs" / "digits" / "top_kast.yaml"), "optim.weight_decay": 5e-4}
    assert train_here({**values, "output": tmp_path / "whole"}).code == 0
    assert train_here({**values, "output": tmp_path / "halves"}, interrupt_after=7).code == 130
    assert "going on after step 6 of 22" in train_here({**values, "output": tmp_path / "halves"}).out
    last = "checkpoints/step_00000022.pt"
    whole, halves = (torch.load(tmp_path / name / last, weights_only=True)["state_dict"] for name in ("whole", "halves"))
    assert all(torch.equal(halves[name], value) for name, value in whole.items())


def one_of_each_method() -> list[Path]:
    return list({load_config(str(path)).sparsity.method: path for path in reversed(CONFIGS)}.values())


@pytest.mark.parametrize("path", one_of_each_method(), ids=lambda path: path.stem)
def test_micro_batches_do_not_change_which_step_is_an_update(whole: Callable[[Path], Path], tmp_path: Path, path: Path) -> None:
    """Two micro-batches a step against one."""
    values = short(path)
    assert values["train.accumulation"] == 2
    assert train_here({**values, "train.accumulation": 1, "output": tmp_path}).code == 0
    one, two = ([row["step"] for row in metrics(folder) if row["sparsity/changed"]] for folder in (tmp_path, whole(path)))
    assert one == two
