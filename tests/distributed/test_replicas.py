"""Ranks train one network: what they draw in a step is the same, and a run ends where their copies differ by a bit."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.command import metrics, words
from tests.distributed import cases, forks, parting
from tests.distributed.world import World
from tests.values import LOGGED, SMALL_RESNET, TINY_VIT

Worlds = Callable[[int], World]
RUN: dict[str, Any] = {
    **LOGGED,
    "resume": "auto",
    **SMALL_RESNET,
    "train.epochs": 1,
    "train.batch_size": 256,
    "train.ema": 0.9,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
    "checkpoint.every": "2 steps",
}
"""5 steps; a checkpoint after the second and the fourth, validation after the last."""
KRON = {
    **RUN,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "optim.name": "kron",
    "optim.lr": 0.001,
}
"""Its products with the weights of a convolution take seconds."""


def test_an_optimizer_that_draws_in_its_step_draws_the_same_on_all_ranks(worlds: Worlds, tmp_path: Path) -> None:
    whole, parts = {**KRON, "output": tmp_path / "whole"}, {**KRON, "output": tmp_path / "parts"}
    (first, weights), (other, others) = worlds(2).run(parting.uncompiled, whole)
    assert (first.code, other.code) == (0, 0)
    assert weights == others and len(weights) == 20
    assert [outcome.code for outcome, _ in worlds(2).run(parting.uncompiled, parts, interrupt_after=3)] == [130, 130]
    assert [resumed for _, resumed in worlds(2).run(parting.uncompiled, parts)] == [weights, weights]
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


@pytest.mark.parametrize(
    ("what", "name", "step", "told"),
    [
        ("weight", "layer2.0.conv1.weight", 2, "layer2.0.conv1.weight"),
        ("weight", "fc.bias", 5, "fc.bias"),
        ("momentum_buffer", "layer1.0.bn1.weight", 4, "momentum_buffer of layer1.0.bn1.weight"),
        ("averaged", "fc.weight", 5, "averaged.fc.weight"),
        ("buffer", "layer2.0.bn1.running_var", 5, "layer2.0.bn1.running_var"),
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_a_bit_that_differs_ends_the_run(
    worlds: Worlds, tmp_path: Path, size: int, what: str, name: str, step: int, told: str
) -> None:
    values = {**RUN, "train.batch_size": 252, "output": tmp_path}
    line = f"ranks differ: ranks [{size - 1}] do not hold rank 0's {told}"
    silent = [(1, [])] * (size - 1)
    assert worlds(size).run(parting.command, values, what, name, step) == [(1, [line]), *silent]
    assert json.loads((tmp_path / "summary.json").read_text())["exit_reason"] == f"stopped: {line}"
    saved = {path.name for path in (tmp_path / "checkpoints").glob("*.pt")}
    assert f"step_{step:08}.pt" not in saved and "best.pt" not in saved
    assert [outcome.code for outcome in worlds(size).run(cases.command, values)] == [0] * size


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")
@pytest.mark.parametrize(
    ("stage", "what"), [(0, "weight"), (0, "momentum_buffer"), (1, "weight"), (2, "weight"), (3, "weight"), (3, "buffer")]
)
def test_so_under_deepspeed(worlds: Worlds, tmp_path: Path, stage: int, what: str) -> None:
    """At stage 3 small weights are whole after a step, unless the averaged weights have just been moved."""
    values = {**RUN, "engine.name": "deepspeed", "engine.zero.stage": stage, "output": tmp_path}
    values |= {"train.ema": None} if stage == 3 else {}
    name = "layer1.0.bn1.running_mean" if what == "buffer" else "layer1.0.bn1.weight"
    told = f"{what} of {name}" if what == "momentum_buffer" else name
    line = f"ranks differ: ranks [1] do not hold rank 0's {told}"
    assert worlds(2).run(parting.command, values, what, name, 5) == [(1, [line]), (1, [])]
    assert not (tmp_path / "checkpoints" / "best.pt").exists()


def test_every_rank_ends_and_the_first_tells_it_in_one_line(tmp_path: Path) -> None:
    first, other = forks.live(2, parting.main, words({**RUN, "output": tmp_path / "run"}), folder=tmp_path)
    assert (first.code, other.code) == (1, 1)
    assert "error: ranks differ: ranks [1] do not hold rank 0's fc.weight\n" in first.said
    assert "error:" not in other.said
    assert "Traceback" not in first.said + other.said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000002.pt"]
