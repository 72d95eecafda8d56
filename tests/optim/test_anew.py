"""Optimizers whose state of a parameter may be exchanged for another under ZeRO, and those that are refused."""

from typing import Any

import pytest

from dist_sparse.config.schema import OptimConfig
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.errors import UserError
from dist_sparse.optim import check_exchangeable

ENGINE = Capabilities(cause="engine.zero.stage=1", counts_steps_once=True)


@pytest.mark.parametrize("name", ["sgd", "momentum", "lion", "rmsprop"])
def test_optimizers_that_begin_at_zero(name: str) -> None:
    check_exchangeable(OptimConfig(name=name), ENGINE, "it is exchanged")


@pytest.mark.parametrize(
    ("name", "kwargs"), [("adamw", {}), ("nadamw", {}), ("rmsproptf", {}), ("momentum", {"dampening": 0.5})], ids=str
)
def test_optimizers_that_count_steps_or_begin_elsewhere(name: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^optim.name={name}: it is exchanged, and engine.zero.stage=1 "):
        check_exchangeable(OptimConfig(name=name, kwargs=kwargs), ENGINE, "it is exchanged")
