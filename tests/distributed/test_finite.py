"""Where one rank alone meets what is not finite, all of them undo the step, and none saves what another holds of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import finite_cases
from tests.distributed.test_deepspeed import CONVOLUTIONS, zero
from tests.distributed.world import World

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp, masked exchange": {"engine.exchange": "masked"},
    "ddp, packed weights": {"execution.storage": "packed"},
    **{f"deepspeed {stage}": zero(stage) for stage in (0, 1, 2, 3)},
}
RIGL: dict[str, Any] = {
    **CONVOLUTIONS,
    "model.kwargs": {**CONVOLUTIONS["model.kwargs"], "layers": [1] * 4},
    "train.epochs": 1,
    "train.batch_size": 64,
    "sparsity.density": 0.3,
    "sparsity.update.interval": "3 steps",
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_is_undone_on_all_ranks(worlds: Callable[[int], World], tmp_path: Path, engine: str, precision: str) -> None:
    """Step 3, on which masks would move; they do at step 4. With running statistics, which a forward spoils at once."""
    if "deepspeed" in engine:
        pytest.importorskip("deepspeed")
    if "packed" in engine and precision == "fp16":
        pytest.skip("packed weights refuse fp16")
    values = {**RIGL, **ENGINES[engine], "train.precision": precision}
    for rank in worlds(2).run(finite_cases.spoilt_on_one_rank, values, str(tmp_path), 3, 1e30):
        assert all(step["in order"] for step in rank)
        assert [step["masks"] for step in rank] == [False, False, False, True, False]
        assert [what for what, moved in rank[2].items() if moved] == ["in order"]
        # In fp16 the first step may find the scale too high, and is undone itself.
        for step in (0, 1, 3, 4) if precision == "fp32" else (1, 3, 4):
            assert rank[step]["buffers"] and rank[step]["weights"], step + 1


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_that_deepspeed_leaves_out_by_itself_is_undone(
    worlds: Callable[[int], World], tmp_path: Path, stage: int
) -> None:
    """Step 2 chooses no masks, so that nobody but DeepSpeed looks at its gradients; each later state can be saved again."""
    pytest.importorskip("deepspeed")
    for rank in worlds(2).run(finite_cases.spoilt_on_one_rank, {**RIGL, **zero(stage)}, str(tmp_path), 2, 1e30):
        assert all(step["in order"] for step in rank)
        assert [what for what, moved in rank[1].items() if moved] == ["in order"]
        assert all(rank[step]["buffers"] and rank[step]["weights"] for step in (0, 2, 3))


@pytest.mark.parametrize("engine", ["ddp", "deepspeed 1", "deepspeed 3"])
def test_one_rank_s_part_keeps_all_from_saving(worlds: Callable[[int], World], tmp_path: Path, engine: str) -> None:
    if "deepspeed" in engine:
        pytest.importorskip("deepspeed")
    first, second = worlds(2).run(finite_cases.refused_on_one_rank, {**RIGL, **ENGINES[engine]}, str(tmp_path))
    assert first == second != []
    assert all("momentum" in name or name.startswith("optimizer") for name in first)
