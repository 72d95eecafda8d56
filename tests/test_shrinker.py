"""Runs whose networks lose their dead units on the way: smaller, and along the path of the whole network that is left."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse import evaluate
from dist_sparse.engines.narrowing import NarrowingDDPEngine
from dist_sparse.shrinking import Plan
from dist_sparse.train import main as train
from dist_sparse.trainer import Moment, Trainer
from tests.command import here, metrics, train_here, words
from tests.values import LOGGED, SMALL_RESNET, TINY_VIT

RUN: dict[str, Any] = {
    **LOGGED,
    **SMALL_RESNET,
    "train.precision": "fp64",
    "train.epochs": 1,
    "train.ema": 0.9,
    "sparsity.structure": "filter",
    "sparsity.keep_dense": "[first, last]",
    "sparsity.density": 0.3,
    "checkpoint.every": "1 steps",
    "checkpoint.keep": 20,
    "execution.shrink": "true",
    "execution.width_multiple": 1,
    "resume": "auto",
}
"""11 steps."""
GMP = {"sparsity.method": "gmp", "sparsity.update.interval": "2 steps", "sparsity.ramp.end": "8 steps"}
UPDATES = {"sparsity.update.interval": "2 steps", "sparsity.update.end": "5 steps"}
MEST = {
    "sparsity.method": "mest",
    "sparsity.update.interval": "2 steps",
    "sparsity.mest.decay": "[2 steps, 4 steps]",
}
VIT = {"model.name": "vit_tiny_patch16_224", "model.kwargs": {**TINY_VIT, "num_heads": 4}, "train.batch_size": 120}
DEPTHWISE = {"model.name": "test_efficientnet", "model.kwargs": {}, "data.image_size": 32}


def checkpoint(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"step_{step:08}.pt", weights_only=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that prunes filters, which nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = train_here({**RUN, **GMP, "output": folder})
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("the network without its dead units has") > 1
    return folder


def test_it_goes_on_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    """Interrupted before, between and after the steps that shrink the network."""
    values = {**RUN, **GMP, "output": tmp_path}
    for step in (1, 5, 9):
        assert train_here(values, interrupt_after=step).code == 130
    assert train_here(values).code == 0
    assert metrics(tmp_path) == metrics(whole)
    ours, theirs = checkpoint(tmp_path, 11), checkpoint(whole, 11)
    for part in ("state_dict", "state_dict_ema", "optimizer", "narrow", "shrinker"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_a_step_that_is_undone_after_a_resume_leaves_the_running_statistics(whole: Path, tmp_path: Path) -> None:
    """Gone on from a network that had shrunk; the first step after it would choose masks by gradients that are not finite."""
    saved = checkpoint(whole, 5)
    assert "layer1.0.bn1.running_var" in saved["narrow"]["kept"]

    def spoil(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.GRADIENTS_READY and trainer.progress.step == 5:
            next(gradient for _, gradient in trainer.engine.held("gradients")).fill_(float("nan"))

    values = {**RUN, **GMP, "resume": whole / "checkpoints" / "step_00000005.pt", "output": tmp_path}
    outcome = train_here(values, interrupt_after=6, hooks=[spoil])
    assert "step 6 would choose masks by gradients or weights that are not finite" in outcome.err
    after = checkpoint(tmp_path, 6)["state_dict"]
    torch.testing.assert_close(after, saved["state_dict"], rtol=0, atol=0)


def test_what_is_held_and_computed_becomes_less(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    dense = summary["parameters"] * 8
    held = summary["state_bytes"]
    assert max(held["gradients"], held["optimizer"]) < 0.7 * dense
    assert held["masks"] < 0.3 * summary["parameters"]  # bits
    assert 0.1 < summary["flops_saved"] < 1 - summary["train_flops_relative"]
    assert checkpoint(whole, 11)["state_dict"]["layer1.0.conv1.weight"].shape == (8, 64, 3, 3)


def test_widths_stay_multiples(tmp_path: Path) -> None:
    """2 of 8 filters are active, and 4 stay."""
    values = {**RUN, "sparsity.method": "static", "execution.width_multiple": 4, "sparsity.density": 0.25}
    assert train_here({**values, "data.limit": 64, "train.batch_size": 32, "output": tmp_path}).code == 0
    kept = checkpoint(tmp_path, 1)["narrow"]["kept"]
    assert {len(dims["0"]) for name, dims in kept.items() if name.endswith("conv1.weight") and "0" in dims} == {4}


def test_a_network_that_cannot_shrink_says_so(tmp_path: Path) -> None:
    """All of its widths are the multiple."""
    values = {**RUN, "sparsity.method": "static", "execution.width_multiple": 8, "data.limit": 64, "train.batch_size": 32}
    outcome = train_here({**values, "output": tmp_path})
    assert outcome.code == 0
    assert "after step 0 no dead unit can leave the network" in outcome.out


def test_a_checkpoint_is_evaluated_as_the_whole_network(whole: Path) -> None:
    outcome = here(evaluate.main, [str(whole), "--checkpoint=last"])
    last = metrics(whole)[-1]
    assert outcome.code == 0, outcome.err
    for label, name in (("weights", "val/top1"), ("averaged weights", "val/ema_top1")):
        line = next(line for line in outcome.out.splitlines() if line.startswith(f"{label} "))
        assert f"top-1 {float(last[name]):.2%}" in line


RUNS = {
    "gmp": GMP,
    "gmp_uniform of channels": {**GMP, "sparsity.method": "gmp_uniform", "sparsity.structure": "channel"},
    "static, accumulation, clipping": {"sparsity.method": "static", "train.accumulation": 2, "train.clip_norm": 0.5},
    "static snip": {"sparsity.method": "static", "sparsity.init": "snip"},
    "rigl, adamw": {"sparsity.method": "rigl", **UPDATES, "optim.name": "adamw", "optim.lr": 0.01},
    "granet of channels": {
        "sparsity.method": "granet",
        **UPDATES,
        "sparsity.ramp.end": "3 steps",
        "sparsity.structure": "channel",
    },
    "acdc": {"sparsity.method": "acdc", "sparsity.update.interval": "2 steps", "sparsity.ramp.end": "7 steps"},
    "mest, channels last": {**MEST, "train.channels_last": "true"},
    "depthwise": {"sparsity.method": "static", **DEPTHWISE, "data.limit": 176, "train.batch_size": 16},
    "attention": {"sparsity.method": "static", **VIT, "sparsity.density": 0.5},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_whole_network_would_go_the_same_way(tmp_path: Path, name: str) -> None:
    """Gone on from after the last shrinking without it, a run has the same masks, and losses but for rounding."""
    plans: dict[int, Plan] = {}

    def look(moment: Moment, trainer: Trainer) -> None:
        engine = trainer.engine
        assert isinstance(engine, NarrowingDDPEngine)
        if moment is Moment.STEP_ENDED and engine.plan.kept:
            plans[trainer.progress.step] = engine.plan

    values = {**RUN, **RUNS[name]}
    outcome = train_here({**values, "output": tmp_path / "shrunk"}, hooks=[look])
    assert outcome.code == 0, outcome.err
    last = min(step for step, plan in plans.items() if plan is plans[11])
    narrow = [row for row in metrics(tmp_path / "shrunk") if int(row["step"]) > last]
    start = tmp_path / "shrunk" / "checkpoints" / f"step_{last:08}.pt"
    again = {
        **values,
        "execution.shrink": "false",
        "execution.width_multiple": 8,
        "execution.compute": "dense",
        "resume": start,
    }
    assert train_here({**again, "output": tmp_path / "whole"}).code == 0
    for ours, theirs in zip(narrow, metrics(tmp_path / "whole"), strict=True):
        for column, value in theirs.items():
            if column.startswith(("train/", "val/")) and value:
                assert float(ours[column]) == pytest.approx(float(value), rel=1e-8), column
            elif not column.startswith("execution/"):
                assert ours[column] == value, column


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sparsity.structure": "unstructured"}, "needs whole dead units: sparsity.structure=filter or channel, not unstruct"),
        ({"execution.storage": "packed"}, "computes and stores what is left densely: not with execution.storage=packed"),
        ({"execution.compute": "sparse"}, "not with execution.compute=sparse"),
        (
            {"engine.name": "deepspeed", "train.precision": "fp32"},
            "needs engine.name=ddp; deepspeed keeps parameters of fixed sizes",
        ),
        ({"optim.name": "muon"}, "does not step every weight by itself, as execution.shrink=true needs"),
        ({"sparsity.structure": "nm:2:4", "sparsity.density": 0.5}, "needs whole dead units"),
        (
            {"sparsity.method": "top_kast", "train.ema": "null"},
            "cannot go with sparsity.method=top_kast, which trains inactive weights too",
        ),
        (
            {"sparsity.method": "mest", "sparsity.mest.keep": "[0.2]", "sparsity.mest.grow_to": "[0.4]"},
            "needs units that stay dead, and those of sparsity.method=mest may come back at any time",
        ),
    ],
)
def test_what_cannot_shrink_is_refused_in_one_line(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    """By ``--plan`` as by the run."""
    values = {**RUN, "sparsity.method": "static", **values, "output": tmp_path / "run"}
    for outcome in (train_here(values), here(train, ["--plan", *words(values)])):
        assert outcome.code == 2
        assert len(outcome.errors) == 1
        assert message in outcome.errors[0]
    assert not (tmp_path / "run").exists()
