"""The memory of a run's state on ranks that share it out, as it is counted and as ``--plan`` foresees it."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import zero_cases
from tests.distributed.test_deepspeed import COMMON, zero
from tests.distributed.world import World
from tests.forecast_bytes import assert_forecast

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")

Worlds = Callable[[int], World]
CASES = [
    *((stage, "masked", precision) for stage in range(4) for precision in ("fp32", "bf16")),
    *((stage, "packed", "fp32") for stage in range(3)),
]


@pytest.mark.parametrize(("stage", "storage", "precision"), CASES)
def test_the_plan_foresees_the_bytes_of_each_rank(
    worlds: Worlds, tmp_path: Path, stage: int, storage: str, precision: str
) -> None:
    values: dict[str, Any] = {
        **COMMON,
        "data.limit": 256,
        "train.precision": precision,
        "sparsity.method": "set",
        "execution.compute": "dense",
        "execution.storage": storage,
        **zero(stage),
    }
    if stage == 3:  # DeepSpeed leaves small weights whole, which are next to nothing of a network that needs this stage
        settings = tmp_path / "settings.json"
        settings.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": 0}}))
        values["engine.deepspeed_config"] = str(settings)
    for counted in worlds(2).run(zero_cases.counted_state, values, str(tmp_path)):
        assert_forecast(counted, {**values, "output": str(tmp_path)}, 2)
