"""What a new method may not forget."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.base import Decision, Method
from dist_sparse.sparsity.methods.plan import FixedMasks, Plan

SHARED = {"digest", "verify_masks", "one_update", "replace_masks", "take_masks"}
"""Which no method overrides."""


def test_a_method_without_a_plan_is_an_error() -> None:
    class Forgetful(Method):
        name = "forgetful"

    with pytest.raises(TypeError, match="abstract method"):
        Forgetful(None, access=None, masks=None, agreement=None, remask=False)  # pyright: ignore


def test_a_plan_without_a_forecast_is_an_error() -> None:
    class Forgetful(Plan):
        pass

    with pytest.raises(TypeError, match="abstract method"):
        Forgetful(method=Method, context=None, initial_mask=None, active={})  # pyright: ignore


def test_a_method_that_moves_what_it_calls_fixed_fails_at_its_first_update(
    small_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would say in ``--plan`` that it updates none, and count costs of masks that never move."""

    class Forgetful(Method):
        name = "forgetful"

        @classmethod
        def plan(cls, context: Any) -> Plan:
            return FixedMasks.of(cls, context)

        def after_backward(self, step: int) -> Decision:
            self.replace_masks({name: ~self.masks[name] for name in self.masks.names})
            return super().after_backward(step)

    monkeypatch.setitem(METHODS, "forgetful", Forgetful)
    model = nn.Linear(8, 4)
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), SparsityConfig(method="forgetful", density=0.5))
    with pytest.raises(AssertionError, match="forgetful moves its masks, which its plan says are fixed"):
        run.step(torch.randn(4, 8), torch.zeros(4, dtype=torch.long))


def test_the_base_tells_of_every_hook() -> None:
    assert Method.__doc__ is not None
    told = set(re.findall(r":(?:meth|attr):`(\w+)`", Method.__doc__))
    of_plan = set(re.findall(r"``Plan\.(\w+)``", Method.__doc__))
    assert of_plan >= {name for name in vars(Plan) if not name.startswith("_")} - {"initial_densities"}
    hooks = {name for name in vars(Method) if not name.startswith("_")} - SHARED
    assert told >= hooks
    assert all(getattr(Method, name).__doc__ for name in hooks if callable(getattr(Method, name)))
