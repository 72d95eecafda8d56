"""Ranks whose network loses its dead units lose the same ones, and go on bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import cases
from tests.distributed.test_resume import RUN, goes_on_as_if_nothing_had_been
from tests.distributed.world import World
from tests.values import SMALL_RESNET

Worlds = Callable[[int], World]
SHRINK: dict[str, Any] = {
    **RUN,
    "execution.shrink": "true",
    "execution.width_multiple": 1,
    "sparsity.structure": "filter",
    "train.ema": 0.9,
}


@pytest.mark.parametrize("size", [2, 3])
def test_runs_go_on_bit_for_bit(worlds: Worlds, tmp_path: Path, size: int) -> None:
    """Killed before and between the steps that take units out, and after the last of them."""
    values = {**SHRINK, "sparsity.method": "gmp", "sparsity.ramp.end": "7 steps", "engine.exchange": "masked"}
    goes_on_as_if_nothing_had_been(worlds(size), tmp_path, values, kills=(2, 4, 8))
    parts, whole = (torch.load(tmp_path / run / "checkpoints" / "step_00000011.pt") for run in ("parts", "whole"))
    assert whole["narrow"]["kept"]
    torch.testing.assert_close(parts["narrow"], whole["narrow"], rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_outputs_stay_those_of_the_first_rank_s_statistics(worlds: Worlds, tmp_path: Path, size: int) -> None:
    """The outputs are the model's and those of its average, whose constants differ from the model's."""
    values = {
        **SHRINK,
        "model.kwargs": {**SMALL_RESNET["model.kwargs"], "layers": [1] * 4},
        "resume": "never",
        "train.precision": "fp64",
        "sparsity.method": "static",
        "sparsity.keep_dense": ["first", "last"],
        "sparsity.density": 0.5,
    }
    for (before, after), differences in worlds(size).run(cases.outputs_around_shrinking, values, str(tmp_path)):
        assert after < 0.7 * before
        assert max(differences) < 1e-10


def test_momentum_of_what_is_left_stays(worlds: Worlds, tmp_path: Path) -> None:
    values = {**SHRINK, "resume": "never", "sparsity.method": "static", "sparsity.density": 0.5, "train.ema": None}
    for narrower, changed in worlds(2).run(cases.momentum_around_shrinking, values, str(tmp_path)):
        assert narrower > 3
        assert changed == []
