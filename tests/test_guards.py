"""A run that would train nothing, or else than it says, is refused or told of before its first step, and by --plan alike."""

import logging
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.config import load_config
from dist_sparse.errors import UserError
from dist_sparse.plan.outlook import look_ahead
from tests.command import train_here
from tests.values import QUIET, TINY_VIT

SMALL: dict[str, Any] = {
    **QUIET,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "data.limit": 256,
    "train.epochs": 1,
    "train.batch_size": 16,
    "sparsity.density": 0.5,
    "sparsity.update.interval": "4 steps",
}
"""16 steps, updates in the first 12."""

STANDARDISED: dict[str, Any] = {"model.name": "test_nfnet", "model.kwargs": {}, "sparsity.keep_dense": ["last"]}
"""A network most of whose convolutions standardise their weights."""
NAMED = (
    "model.name=test_nfnet standardises weights, which makes its inactive ones other than 0 (stem.conv1.weight, "
    "stem.conv2.weight, stem.conv3.weight and 22 more)"
)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sparsity.update.interval": 1}, "sparsity.update.interval=1 steps: with sparsity.update.form=original an update "),
    (
        {"sparsity.update.interval": 2, "data.forgetting.epochs": 1, "data.forgetting.remove": 128, "train.epochs": 9},
        "sparsity.update.interval=2 steps: with sparsity.update.form=original an update ",
    ),
    (
        {"sparsity.method": "static", "sparsity.update.interval": None, "sparsity.init": "snip", "train.batch_size": 256},
        "sparsity.method=static: masks move in place of the optimizer's step in all 1 steps of the run",
    ),
    (
        {"sparsity.update.drop_floor": 0.4},
        "sparsity.update.drop_floor=0.4 is above sparsity.update.drop_fraction=0.3: the fraction comes down to its floor",
    ),
    (
        {"train.batch_size": 1, "model.name": "resnet18", "model.kwargs": {}},
        "train.batch_size=1 is one image for each of 1 ranks x 1 accumulation steps, of which batch norm 'layer2.0.bn1'",
    ),
    (
        {"train.batch_size": 4, "train.accumulation": 4, "model.name": "resnet18", "model.kwargs": {}},
        "train.batch_size=4 is one image for each of 1 ranks x 4 accumulation steps, of which batch norm 'layer2.0.bn1'",
    ),
    ({"optim.name": "adamw", "optim.kwargs": {"betas": [0.9]}}, "optim.name=adamw with optim.kwargs={'betas': [0.9]}: "),
    ({"optim.name": "adamw", "optim.kwargs": {"amsgrad": True, "capturable": True}}, "optim.name=adamw with optim.kwargs={'"),
    (
        {"model.name": "resnet18", "model.kwargs": {"drop_path_rate": 9}},
        "model.kwargs: resnet18 with {'drop_path_rate': 9} cannot be trained: ",
    ),
    (
        STANDARDISED,
        f"{NAMED}; sparsity.keep_dense=[last, stem.conv1.weight, stem.conv2.weight, stem.conv3.weight, stem.conv4.weight, ",
    ),
    (
        {**STANDARDISED, "sparsity.keep_dense": ["last", "*.attn_last.*"]},
        f"{NAMED}; no other layer is left to be sparse; sparsity.method=dense trains it",
    ),
]  # fmt: skip

TOLD: list[tuple[dict[str, Any], str]] = [
    ({"sparsity.update.interval": 2}, "5 of the run's 16 steps train nothing: with sparsity.update.form=original an update "),
    ({"sparsity.update.drop_fraction": 1e-5}, "updates drop and grow nothing: sparsity.update.drop_fraction=1e-05 is not a "),
    (
        {"train.batch_size": 1},
        "train.batch_size=1 is one image for each of 1 ranks x 1 accumulation steps, from which batch norm",
    ),
    (
        {"train.ema": 0.999},
        "train.ema=0.999 averages over about 1000 steps, but the run has 16: the averaged weights stay near",
    ),
    (
        {"scheduler.name": "step", "scheduler.decay_every": 1},
        "scheduler.name=step: in 56 % of the run's steps the learning rate is below a millionth of its peak, 0.1",
    ),
    ({"scheduler.min_lr": 0.2}, "scheduler.min_lr=0.2 is above the peak learning rate, 0.1 (optim.lr)"),
    ({"scheduler.warmup": 1, "scheduler.warmup_lr": 0.2}, "scheduler.warmup_lr=0.2 is above the peak learning rate, 0.1"),
    ({"sparsity.update.interval": 12}, "the masks never move: the first update would be at step 12 and updates end at step 12"),
]


def look(values: dict[str, Any], ranks: int = 1) -> None:
    look_ahead(load_config(None, {**SMALL, **values}), ranks)


@pytest.mark.parametrize(("values", "beginning"), REFUSED, ids=[" ".join(values) for values, _ in REFUSED])
def test_what_trains_nothing_is_refused(tmp_path: Path, values: dict[str, Any], beginning: str) -> None:
    outcome = train_here({**SMALL, **values, "output": tmp_path / "run"})
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert outcome.errors[0].startswith(beginning)
    with pytest.raises(UserError) as caught:
        look(values)
    assert [str(caught.value)] == outcome.errors


@pytest.mark.parametrize(("values", "beginning"), TOLD, ids=[" ".join(values) for values, _ in TOLD])
def test_what_trains_little_is_told(values: dict[str, Any], beginning: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        look(values)
    assert [text for text in caplog.messages if text.startswith(beginning)]


def test_a_run_tells_what_its_plan_tells(tmp_path: Path) -> None:
    outcome = train_here({**SMALL, "sparsity.update.interval": 2, "train.ema": 0.999, "output": tmp_path})
    assert outcome.code == 0
    assert [line[:40] for line in outcome.err.splitlines() if "WARNING" in line] == [
        "WARNING: 5 of the run's 16 steps train n",
        "WARNING: train.ema=0.999 averages over a",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"sparsity.update.interval": 1, "sparsity.update.form": "itop"},
        {"sparsity.update.interval": 1, "sparsity.method": "granet", "sparsity.ramp.end": "75%"},
        {"sparsity.update.interval": 1, "sparsity.method": "snfs"},
        {"train.batch_size": 1, "model.name": "vit_tiny_patch16_224", "model.kwargs": TINY_VIT},
        {"train.batch_size": 2},
        {"train.precision": "fp64", "model.name": "vit_tiny_patch16_224", "model.kwargs": TINY_VIT},
        {"scheduler.warmup": 8, "train.ema": 0.9},
        {"sparsity.update.drop_floor": 0.4, "sparsity.update.drop_fraction": 0.4},
    ],
)  # fmt: skip
def test_what_trains_is_left_alone(values: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        look(values)
    assert caplog.messages == []


def test_layers_that_standardise_weights_stay_dense_as_the_error_says() -> None:
    with pytest.raises(UserError) as caught:
        look(STANDARDISED)
    named = str(caught.value).partition("sparsity.keep_dense=[")[2].partition("]")[0].split(", ")
    outlook = look_ahead(load_config(None, {**SMALL, **STANDARDISED, "sparsity.keep_dense": named}), 1)
    assert len(outlook.shapes) == 8 and all(".attn_last.fc" in name for name in outlook.shapes)


def test_dense_training_may_standardise_weights() -> None:
    look({**STANDARDISED, "sparsity.method": "dense", "sparsity.density": None, "sparsity.update.interval": None})


@pytest.mark.parametrize("name", ["novograd", "adamp"])
def test_a_plan_knows_the_memory_of_optimizers_that_look_at_values(name: str) -> None:
    outlook = look_ahead(load_config(None, {**SMALL, "optim.name": name}), 1)
    assert outlook.memory.optimizer > outlook.memory.gradients / 2


def test_ranks_share_the_batch() -> None:
    with pytest.raises(
        UserError, match=r"train\.batch_size=16 is one image for each of 16 ranks x 1 accumulation steps, of which"
    ):
        look({"model.name": "resnet18", "model.kwargs": {}}, ranks=16)
