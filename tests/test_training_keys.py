"""Keys of training, model and optimizer that users of timm's script know: each acts, and goes on bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dist_sparse.models.training import synchronise_batch_norms
from dist_sparse.trainer import Moment, Trainer
from tests.command import metrics, train_here
from tests.values import LOGGED, TINY_VIT

RUN: dict[str, Any] = {
    **LOGGED,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": TINY_VIT,
    "train.epochs": 1,
    "train.label_smoothing": 0.1,
    "optim.name": "adamw",
    "optim.lr": 0.01,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
    "checkpoint.every": "2 steps",
    "resume": "auto",
}
"""11 steps."""
KEYS: dict[str, dict[str, Any]] = {
    "bce": {"train.bce": "true"},
    "bce_threshold": {"train.bce": "true", "train.bce_threshold": 0.2, "train.mixup": 0.5},
    "bce_sum": {"train.bce": "true", "train.bce_sum": "true", "train.precision": "bf16"},
    "ema_warmup": {"train.ema": 0.99, "train.ema_warmup": "true"},
    "drop_path": {"model.drop_path": 0.3},
    "layer_decay": {"optim.layer_decay": 0.7},
    "lookahead": {"optim.lookahead": "true", "optim.lookahead_k": 3, "optim.lookahead_alpha": 0.8},
}
WITHOUT: dict[str, dict[str, Any]] = {
    "bce_threshold": {"train.bce": "true", "train.mixup": 0.5},
    "bce_sum": {"train.bce": "true", "train.precision": "bf16"},
    "ema_warmup": {"train.ema": 0.99},
}
"""What else is set beside a key, for the run without it."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert train_here({**RUN, "output": folder}).code == 0
    return folder


@pytest.mark.parametrize("key", KEYS)
def test_a_key_acts_and_goes_on_bit_for_bit(plain: Path, tmp_path: Path, key: str) -> None:
    values, without = {**RUN, **KEYS[key]}, plain
    if key in WITHOUT:
        without = tmp_path / "without"
        assert train_here({**RUN, **WITHOUT[key], "output": without}).code == 0
    outcome = train_here({**values, "output": tmp_path / "whole"})
    assert outcome.code == 0, outcome.err
    assert "without effect" not in outcome.err
    whole = metrics(tmp_path / "whole")
    assert whole[-1] != metrics(without)[-1]
    assert train_here({**values, "output": tmp_path / "parts"}, interrupt_after=7).code == 130
    assert train_here({**values, "output": tmp_path / "parts"}).code == 0
    assert metrics(tmp_path / "parts") == whole


@pytest.mark.parametrize("storage", ["masked", "packed"])
def test_blocks_are_computed_again_in_the_backward(plain: Path, tmp_path: Path, storage: str) -> None:
    """Without batch norms the losses are the same, bit for bit."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1

    def look(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.STARTED:
            block = trainer.engine.model.get_submodule("blocks.0")
            block.register_forward_pre_hook(lambda module, _: count() if module.training else None)

    losses = []
    for checkpointing in ("false", "true"):
        calls[0] = 0
        values = {**RUN, "execution.storage": storage, "train.grad_checkpointing": checkpointing, "resume": "never"}
        assert train_here({**values, "output": tmp_path / checkpointing}, hooks=[look]).code == 0
        assert calls[0] == (22 if checkpointing == "true" else 11)
        losses.append([row["train/loss"] for row in metrics(tmp_path / checkpointing)])
    assert losses[0] == losses[1]


def test_layers_learn_at_rates_of_their_own_and_the_rate_told_is_the_last_one_s(tmp_path: Path) -> None:
    seen: list[tuple[float, float, float]] = []

    def look(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.GRADIENTS_READY:
            rates = [group["lr"] for group in trainer.scheduler.optimizer.param_groups]
            seen.append((min(rates), max(rates), trainer.engine.learning_rate))

    values = {**RUN, "optim.layer_decay": 0.5, "scheduler.name": "constant", "output": tmp_path}
    assert train_here(values, hooks=[look]).code == 0
    assert seen == [(pytest.approx(0.01 * 0.5**3), 0.01, 0.01)] * 11  # embedding, two blocks, head


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model.name": "cifar_resnet20", "model.kwargs": {}, "train.grad_checkpointing": "true"},
            "train.grad_checkpointing: not",
        ),
        (
            {"model.name": "cifar_resnet20", "model.kwargs": {}, "model.drop_path": 0.1},
            "model.drop_path: cifar_resnet20 has no",
        ),
        ({"model.drop_path": 0.1, "model.kwargs": {**TINY_VIT, "drop_path_rate": 0.2}}, "drop_path_rate has a key of its own"),
        ({"optim.name": "lookahead_sgd"}, "optim.name=lookahead_sgd: is written optim.name=sgd and optim.lookahead=true"),
        ({"train.sync_batch_norm": "true"}, "train.sync_batch_norm=true needs CUDA, for which alone torch has it"),
        ({"train.bce_threshold": 1.5}, "train.bce_threshold=1.5"),
        ({"optim.kwargs": {"layer_decay": 0.5}}, "optim.kwargs.layer_decay: has a key of its own, optim.layer_decay"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    outcome = train_here({**RUN, **values, "output": tmp_path / "run"})
    assert outcome.code == 2
    (line,) = outcome.errors
    assert message in line


def test_keys_without_effect_are_told(tmp_path: Path) -> None:
    values = {"train.bce_sum": "true", "train.ema_warmup": "true", "optim.lookahead_k": 3, "train.sync_batch_norm": "false"}
    outcome = train_here({**RUN, **values, "output": tmp_path / "run"})
    assert outcome.code == 0
    (line,) = [line for line in outcome.err.splitlines() if "without effect" in line]
    assert "train.bce_sum (train.bce is false)" in line
    assert "train.ema_warmup (train.ema is off)" in line
    assert "optim.lookahead_k (optim.lookahead is false)" in line
    assert "train.sync_batch_norm (there is one rank)" in line


def test_synchronised_norms_hold_the_same_tensors() -> None:
    """What they compute takes CUDA."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = dict(model.named_parameters())
    synchronised = synchronise_batch_norms(model)
    assert isinstance(synchronised[1], nn.SyncBatchNorm)
    assert all(parameter is before[name] for name, parameter in synchronised.named_parameters())
    torch.testing.assert_close(synchronised.state_dict(), model.state_dict())
