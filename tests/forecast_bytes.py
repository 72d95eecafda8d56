"""What ``--plan`` says of a run's memory, beside what was counted."""

from collections.abc import Mapping
from typing import Any

import pytest

from dist_sparse.config import Config, with_values
from dist_sparse.plan.outlook import look_ahead


def assert_forecast(counted: Mapping[str, int], values: dict[str, Any], ranks: int = 1) -> None:
    """The plan's bytes of the state on one rank are those that were counted, of each kind, within 5 %."""
    memory = look_ahead(with_values(Config(), values), ranks).memory
    forecast = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "masks": memory.masks_on_cpu,
        "indices": memory.indices,
    }
    assert counted.keys() == forecast.keys()
    for kind, size in counted.items():
        assert forecast[kind] == pytest.approx(size, rel=0.05, abs=100), kind
    assert sum(forecast.values()) == pytest.approx(sum(counted.values()), rel=0.05)
