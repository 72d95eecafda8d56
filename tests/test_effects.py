"""Keys that are set and do nothing are told in one line, by a run, a smoke run and --plan alike."""

import logging
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.build import resolved
from dist_sparse.config import Config, load_config, parse_args, to_flat
from dist_sparse.config.tree import leaves
from dist_sparse.effects import idle_keys
from dist_sparse.train import main
from tests.command import Outcome, here, train_here, words

SMALL: dict[str, Any] = {
    "engine.device": "cpu",
    "tracking.wandb": "offline",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "data.limit": 256,
    "train.epochs": 1,
    "train.batch_size": 32,
    "sparsity.density": 0.5,
    "sparsity.update.interval": "4 steps",
}
RIGL: dict[str, Any] = {}
STATIC = {"sparsity.method": "static", "sparsity.update.interval": None}
GRANET = {"sparsity.method": "granet", "sparsity.ramp.end": "75%"}
AST = {"sparsity.method": "ast", "sparsity.density": None, "sparsity.ast.densities": [0.1]}
FOLDER = {"data.name": "image_folder"}
ERASING = {"": 0.3, "_mode": "const", "_count": 2}

IDLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (RIGL, {"data.workers": 2}),
    (RIGL, {"data.backend": "dali", "data.bad_images": "skip", "data.root": "/images", "data.download": True}),
    ({"data.augment": False}, {"data.flip": True, "data.crop_padding": 2, "data.padding_mode": "reflect"}),
    ({"data.crop_padding": 0}, {"data.padding_mode": "reflect"}),
    ({**FOLDER, "data.augment": False}, {"data.min_scale": 0.3, "data.flip": False}),
    (
        {**FOLDER, "data.augment": False},
        {"data.vertical_flip": True, "data.auto_augment": "3a", "data.color_jitter": 0.3, "data.interpolation": "random"},
    ),
    ({"data.augment": False}, {f"data.random_erasing{key}": value for key, value in ERASING.items()}),
    (FOLDER, {"data.random_erasing_mode": "rand", "data.random_erasing_count": 2}),
    ({**FOLDER, "data.auto_augment": "rand-m9"}, {"data.color_jitter": 0.3}),
    (RIGL, {"data.forgetting.epochs": 1}),
    ({"optim.name": "adamw"}, {"optim.momentum": 0.5}),
    ({"optim.weight_decay": 0}, {"optim.decay_norm_and_bias": True}),
    (RIGL, {"scheduler.decay_rate": 0.5, "scheduler.milestones": ["50%"], "scheduler.decay_every": 3}),
    (RIGL, {"scheduler.warmup_lr": 0.01}),
    ({"scheduler.name": "constant", "scheduler.warmup": 2}, {"scheduler.min_lr": 0.01}),
    (RIGL, {"engine.exchange": "masked", "engine.compress": "bf16", "engine.timeout": 3}),
    ({"tracking.wandb": "disabled"}, {f"tracking.{key}": "a" for key in ("project", "entity", "group", "job_type", "tags")}),
    ({"tracking.wandb": "disabled"}, {"tracking.artifacts": True}),
    (RIGL, {"sparsity.ast.densities": [0.1], "sparsity.mest.keep": [0.1], "sparsity.srste.decay": 0.1}),
    (RIGL, {"sparsity.ramp.end": "50%", "sparsity.shuffled_block.size": 4, "sparsity.update.removal_threshold": 0.1}),
    (GRANET, {"sparsity.distribution": "er", "sparsity.er_power": 2}),
    (AST, {"sparsity.distribution": "er", "sparsity.ast.offset": 2, "sparsity.ast.correction": "whole"}),
    (STATIC, {"sparsity.update.drop_fraction": 0.2}),
    ({"sparsity.update.drop_schedule": "constant"}, {"sparsity.update.drop_floor": 0.1}),
    ({"sparsity.distribution": "uniform"}, {"sparsity.er_power": 2}),
]  # fmt: skip
"""What is set beside, and what does nothing then."""

ACTING: list[dict[str, Any]] = [
    {},
    {"data.flip": True, "data.crop_padding": 2, "data.padding_mode": "reflect"},
    {**FOLDER, "data.workers": 2, "data.min_scale": 0.3, "data.root": "/images"},
    {
        **FOLDER,
        "data.auto_augment": "3a",
        "data.color_jitter": 0.3,
        **{f"data.random_erasing{key}": ERASING[key] for key in ERASING},
    },
    {**FOLDER, "data.interpolation": "random", "data.eval_interpolation": "bicubic", "data.crop_mode": "squash"},
    {**FOLDER, "data.augment": False, "data.interpolation": "bicubic", "data.repeated_augment": 2},
    {"data.vertical_flip": True, "data.repeated_augment": 2, "data.random_erasing": 0.1},
    {"data.name": "cifar10", "data.root": "/cifar", "data.download": True},
    {"optim.momentum": 0.5, "optim.decay_norm_and_bias": True},
    {"scheduler.name": "multistep", "scheduler.milestones": ["50%"], "scheduler.decay_rate": 0.5},
    {"tracking.project": "mine", "tracking.tags": ["a"]},
    {**GRANET, "sparsity.ramp.initial_density": 0.8, "sparsity.distribution": "er"},
    {"train.nan_limit": 3, "checkpoint.keep": 1, "train.clip_norm": 1.0},
]


def idle(values: dict[str, Any], ranks: int = 1) -> dict[str, str]:
    return idle_keys(load_config(None, {**SMALL, **values}), ranks)


@pytest.mark.parametrize(("beside", "values"), IDLE, ids=[" ".join([*beside, "|", *values]) for beside, values in IDLE])
def test_keys_without_effect(beside: dict[str, Any], values: dict[str, Any]) -> None:
    assert idle({**beside, **values}).keys() == values.keys()
    assert all(idle({**beside, **values}).values())


@pytest.mark.parametrize("values", ACTING, ids=" ".join)
def test_keys_with_an_effect(values: dict[str, Any]) -> None:
    assert idle(values) == {}


def test_two_ranks_exchange() -> None:
    values = {"engine.exchange": "masked", "engine.timeout": 3}
    assert idle(values, 2) == {}
    assert idle({**STATIC, "sparsity.method": "dense", "sparsity.density": None, "engine.exchange": "dense"}, 2).keys() == {
        "engine.exchange"
    }


def test_a_default_counts_where_it_is_typed() -> None:
    typed = parse_args([*words(SMALL), "--data.workers=4", '{"optim.momentum": 0.9}', "--optim.name=adamw"])
    assert idle_keys(typed.config, 1) == {}
    assert idle_keys(typed.config, 1, typed.typed).keys() == {"data.workers", "optim.momentum"}


THRESHOLD = {"sparsity.update.removal": "threshold", "sparsity.update.removal_threshold": 0.1}


@pytest.mark.parametrize("values", [RIGL, GRANET, AST, STATIC, THRESHOLD])
def test_what_a_method_fills_in_is_not_told_when_it_is_read_again(values: dict[str, Any]) -> None:
    config = resolved(load_config(None, {**SMALL, **values}))
    assert idle_keys(config, 1) == {}


def test_every_declaration_is_of_a_key() -> None:
    """A key that is renamed takes its declaration along."""
    from dist_sparse.effects import _declared

    for values in (RIGL, STATIC, GRANET, AST, FOLDER, {"tracking.wandb": "disabled"}, {"data.augment": False}):
        names = {name for name, _ in _declared(load_config(None, {**SMALL, **values}), 1)}
        assert names <= leaves().keys() & to_flat(Config()).keys()


def lines(outcome: Outcome) -> list[str]:
    assert outcome.code == 0, outcome.err
    return [line.removeprefix("WARNING: ") for line in outcome.err.splitlines() if "without effect" in line]


def test_run_smoke_and_plan_tell_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = {**SMALL, "tracking.wandb": "disabled", "data.workers": 2, "data.download": True, "sparsity.init": "snip"}
    expected = (
        "without effect in this run: data.download (digits has no files); "
        "data.workers (digits lies on the device as it is, and has no files of images); "
        "sparsity.init (method rigl does not use it)"
    )
    assert lines(train_here({**values, "output": tmp_path / "run"})) == [expected]
    with caplog.at_level(logging.WARNING):
        here(main, [*words({**values, "output": tmp_path / "run"}), "--smoke"])
        here(main, [*words(values), "--plan"])
    assert [text for text in caplog.messages if "without effect" in text] == [expected] * 3
