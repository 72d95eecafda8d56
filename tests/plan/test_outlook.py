"""What --plan forecasts is what a run then does; that of every shipped method, in :mod:`tests.test_every_method`."""

from pathlib import Path
from typing import Any

import pytest

from dist_sparse.errors import UserError
from dist_sparse.plan.report import report
from dist_sparse.train import main
from tests.command import ROOT, here, train_here, words
from tests.plan.forecasts import check, outlook
from tests.test_every_method import short
from tests.values import QUIET

DIGITS = ROOT / "configs" / "digits"
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "rigl over several steps": ("rigl", {"sparsity.update.gradient_steps": 3}),
    "rigl by averages": ("rigl", {"sparsity.update.growth": "momentum"}),
    "rigl in blocks": ("rigl", {"sparsity.structure": "block:4x1", "sparsity.keep_dense": "[first, last]"}),
    "rigl, an end between updates": ("rigl", {"sparsity.update.end": "17 steps", "sparsity.update.gradient_steps": 4}),
    "gmp_uniform": ("gmp", {"sparsity.method": "gmp_uniform"}),
    "granet_uniform": ("granet_05", {"sparsity.method": "granet_uniform"}),
    "granet, a late ramp": ("granet", {"sparsity.ramp.start": "9 steps", "sparsity.ramp.end": "22 steps"}),
    "mest, fewer samples": ("mest_ems", {"data.forgetting.epochs": 1, "data.forgetting.remove": 150}),
    "rigl, fewer samples": ("rigl", {"data.forgetting.epochs": 1, "data.forgetting.remove": 150}),
    "ast, fewer samples": ("ast", {"data.forgetting.epochs": 1, "data.forgetting.remove": 150}),
    "srste, accumulated": ("srste", {"train.accumulation": 4}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_forecast(tmp_path: Path, case: str) -> None:
    name, values = OPTIONS[case]
    values = {**short(DIGITS / f"{name}.yaml"), **values}
    assert train_here({**values, "output": tmp_path}).code == 0
    check(values, tmp_path)


def test_memory_is_that_of_the_parts() -> None:
    """28,643 weights more or less: 272,186 parameters and 1,376 buffers of batch norms and their counters."""
    values = {"config": DIGITS / "rigl.yaml", "train.ema": 0.99}
    memory = outlook(values).memory
    assert (memory.gradients, memory.optimizer) == (4 * 272_186, 4 * 272_186)
    assert memory.weights == memory.ema > memory.gradients
    bits = 270_608 // 8
    assert (memory.masks, memory.masks_on_cpu, memory.method) == (270_608 + bits, 4 * 270_608 + 2 * bits, 0)
    assert outlook({**values, "optim.name": "adamw"}).memory.optimizer == pytest.approx(8 * 272_186, rel=1e-3)
    double = outlook({**values, "train.precision": "fp64"}).memory
    assert (double.gradients, double.optimizer, double.masks) == (8 * 272_186, 8 * 272_186, 270_608 + bits)


def test_zero_shares_memory_out_and_exchanges_all() -> None:
    """For 272,186 parameters and as many of momentum, on two ranks; the master copy counts to the optimizer."""
    values = {"config": DIGITS / "rigl.yaml", "engine.name": "deepspeed"}
    whole = outlook(values | {"engine.zero.stage": 0}, ranks=2).memory
    for stage, keys, (weights, gradients, optimizer) in (
        (1, {}, (1, 1, 1)),
        (2, {}, (1, 0.5, 1)),
        (2, {"engine.zero.offload": "cpu"}, (1, 0.5, 0)),
        (3, {}, (0.5, 0.5, 1)),
    ):
        ahead = outlook({**values, **keys, "engine.zero.stage": stage}, ranks=2)
        memory = ahead.memory
        assert memory.gradients == gradients * whole.gradients
        assert memory.optimizer == optimizer * whole.optimizer
        assert memory.weights == pytest.approx(weights * whole.weights, rel=0.01)
        assert "engine.exchange" not in report(ahead)
    with pytest.raises(UserError, match=r"train\.compile=true: goes with"):
        outlook({**values, "train.compile": True})


def told(**values: Any) -> str:
    asked = here(main, [*words({"config": DIGITS / "rigl.yaml", **values}), "--plan=2"])
    assert (asked.code, asked.err) == (0, "")
    return asked.out


def test_the_wire_is_told_as_the_exchange_will_use_it() -> None:
    assert "auto does not between the GPUs of one machine" in told()
    assert "engine.exchange=auto sends about all of it, too" in told(**{"sparsity.density": 0.7})
    assert "auto" not in told(**{"sparsity.density": 0.7, "engine.exchange": "masked"})
    assert "every step needs all gradients" in told(**{"sparsity.update.growth": "momentum"})


def test_masks_that_follow_the_weights_are_no_updates() -> None:
    follows = "masks follow the weights at every step"
    assert follows in told(config=DIGITS / "srste.yaml")
    assert follows not in told(config=DIGITS / "static.yaml")


def test_training_flops_are_those_of_the_sizes_in_training() -> None:
    values = {"config": ROOT / "configs/imagenet/resnet50/dense.yaml", "data.root": "/nowhere"}
    whole = outlook(values)
    half = {"data.progressive.start_size": 112, "data.progressive.start": "50%", "data.progressive.end": "50%"}
    grown = outlook({**values, **half})
    assert grown.cost.dense_flops == whole.cost.dense_flops
    assert grown.dense_training_flops == pytest.approx(0.625 * whole.dense_training_flops, rel=0.02)
    assert outlook({**values, "data.eval_size": 288}).dense_training_flops == whole.dense_training_flops
    with pytest.raises(UserError, match="should be at most"):
        outlook({**values, "data.progressive.start_size": 256})


def test_a_recipe_is_told_in_full_without_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    asked = here(main, ["--config", str(ROOT / "configs/imagenet/rigl_itop.yaml"), "--data.root=/nowhere", "--plan"])
    assert (asked.code, asked.err) == (0, "")
    assert "on 4 ranks" in asked.out
    assert "1,281,167 training and 50,000 validation images, ImageNet's, since there is no folder /nowhere" in asked.out
    assert "1,000,900 steps, 100 epochs of 10,009 steps" in asked.out
    assert "250, every 4,000 steps, the first at step 4,000, the last at step 1,000,000" in asked.out
    assert "inference 0.4138 of dense" in asked.out  # ERK at 0.2, as published
    told = here(main, ["--config", str(ROOT / "configs/imagenet/rigl_itop.yaml"), "--data.root=/nowhere", "--plan=64"])
    assert "on 64 ranks" in told.out
    assert "64 ranks x 1 micro-batch x 2 images" in told.out


@pytest.mark.parametrize(
    ("word", "told"),
    [("--plan=0", "--plan=0"), ("--plan=many", "--plan=many"), ("--plan=", '--plan=""'), ("--plan=-1", "--plan=-1")],
)
def test_a_number_of_ranks_is_asked_for(word: str, told: str) -> None:
    outcome = here(main, [word])
    assert outcome.code == 2
    assert outcome.errors == [f"{told} should be a number of ranks, such as --plan=8, or --plan alone"]


def test_a_batch_that_the_ranks_cannot_share_is_refused() -> None:
    outcome = here(main, ["--train.batch_size=100", "--sparsity.density=0.1", "--plan=64"])
    assert outcome.code == 2
    assert outcome.errors == ["train.batch_size=100 does not divide by 64 ranks x 1 accumulation steps; 64 or 128 would"]


@pytest.mark.parametrize(
    ("values", "beginning"),
    [
        ({"train.mixup": 0.2, "train.batch_size": 33}, "train.mixup and train.cutmix mix samples in pairs and need an even "),
        ({"train.cutmix": 1e-320}, "train.cutmix=9.99989e-321: no share can be drawn from Beta("),
        ({"train.grad_checkpointing": True}, "train.grad_checkpointing: not with cifar_resnet20: "),
        ({"model.pretrained": True}, "model.pretrained: no weights for cifar_resnet20: "),
    ],
)
def test_what_the_run_refuses_is_refused(tmp_path: Path, values: dict[str, Any], beginning: str) -> None:
    values = {"config": DIGITS / "rigl.yaml", "output": tmp_path / "run", **QUIET, **values}
    (of_run,) = train_here(values).errors
    assert of_run.startswith(beginning)
    with pytest.raises(UserError) as caught:
        outlook(values)
    assert str(caught.value).startswith(beginning)


def test_ranks_with_an_odd_share_of_mixed_images_are_refused() -> None:
    values = {"config": DIGITS / "rigl.yaml", "train.mixup": 0.2, "train.batch_size": 24}
    outlook(values, ranks=4)
    with pytest.raises(UserError, match="need an even micro-batch on each rank, not 3; change train"):
        outlook(values, ranks=8)


def test_weights_and_blocks_that_timm_has_are_planned_with() -> None:
    """Nothing is fetched or read: the last file is not there."""
    big = {"model.name": "resnet18", "model.kwargs": "{}", "train.grad_checkpointing": True}
    plain = outlook({"config": DIGITS / "rigl.yaml", **big})
    assert outlook({"config": DIGITS / "rigl.yaml", **big, "model.pretrained": True}).memory == plain.memory
    overlay = {"model.kwargs": "{pretrained_cfg_overlay: {file: /nowhere/weights.pth}}", "model.pretrained": True}
    outlook({"config": DIGITS / "rigl.yaml", **overlay})


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert here(main, ["--config", str(DIGITS / "ast.yaml"), "--plan"]).code == 0
    assert not list(tmp_path.iterdir())
