"""What the tests' own guard finds and sets back: without it, a test's outcome depends on those before."""

import logging
import os
import sys
from collections.abc import Callable

import pytest
import torch

from tests.state import State, same_draws

CHANGES: dict[str, Callable[[], object]] = {
    "the level or propagation of logger dist_sparse": lambda: logging.getLogger("dist_sparse").setLevel(logging.ERROR),
    "the handlers of logger root": lambda: logging.getLogger().addHandler(logging.NullHandler()),
    "logging.captureWarnings": lambda: logging.captureWarnings(True),
    "sys.excepthook": lambda: setattr(sys, "excepthook", lambda *_: None),
    "environment variable RANK": lambda: os.environ.update(RANK="1"),
    "environment variable HOME": lambda: os.environ.pop("HOME"),
    "the working directory": lambda: os.chdir("/"),
    "torch's default type": lambda: torch.set_default_dtype(torch.float64),
    "torch's number of threads": lambda: torch.set_num_threads(3),
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "torch.nn.functional.linear": lambda: setattr(torch.nn.functional, "linear", torch.matmul),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_test_leaves_changed_is_named_and_set_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home")
    logging.getLogger("dist_sparse")  # there before the test that changes it
    state = State()
    assert state.restore() == []
    CHANGES[name]()
    assert state.restore() == [name]
    assert state.restore() == []


def test_draws_do_not_depend_on_the_tests_before() -> None:
    first = torch.rand(3)
    same_draws()
    assert torch.equal(torch.rand(3), first), "the test itself began from there"
