"""fp16: a step whose gradients overflow moves nothing, and the update that fell on it is made up for."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import RampConfig, SparsityConfig, UpdateConfig
from dist_sparse.sparsity.methods import METHODS

GOOD = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
BAD = GOOD * 1e30  # no fp16 number
LABELS = torch.arange(8) % 4


@pytest.fixture(params=["original", "itop"])
def run(request: pytest.FixtureRequest, small_run):
    """RigL with an update every third step, from the gradients of two."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    update = UpdateConfig(form=request.param, interval=Length(3, "steps"), drop_fraction=0.5, gradient_steps=2)
    config = SparsityConfig(method="rigl", density=0.4, update=update)
    return small_run(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), config, precision="fp16", total_steps=20)


def snapshot(run) -> dict[str, Any]:
    """All that an overflow must leave alone (the loss scale is what it is there to change)."""
    return copy.deepcopy(
        {
            "weights": run.engine.model.state_dict(),
            "momentum": run.engine.state_dict()["optimizer"],
            "method": run.method.state_dict(),
            "digest": run.method.masks.digest(),
        }
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_overflow_on_the_update_step_defers_the_update(run) -> None:
    scale = run.engine.state_dict()["scaler"]["scale"]
    for _ in range(2):
        run.step(GOOD, LABELS)
    before, active = snapshot(run), run.method.masks.active()
    assert before["method"]["last_step"] == 2 and before["method"]["gradients"], "one gradient is stored"
    for step in (3, 4):  # the update was due at step 3
        decision = run.step(BAD, LABELS)
        assert not decision.updates_masks
        assert same(snapshot(run), before), f"step {step} moved something"
    assert run.engine.state_dict()["scaler"]["scale"] == scale / 4
    assert run.step(GOOD, LABELS).updates_masks
    assert run.method.masks.digest() != before["digest"]
    assert run.method.state_dict()["last_step"] == 5 and not run.method.state_dict()["gradients"]
    assert run.step(GOOD, LABELS).updates_masks, "step 6 is a regular update"
    assert run.method.masks.active() == active


def test_overflow_elsewhere_changes_no_update(run) -> None:
    updates = [run.step(BAD if step in (1, 4, 5) else GOOD, LABELS).updates_masks for step in range(1, 8)]
    assert updates == [False, False, True, False, False, True, False]


def test_an_update_is_made_up_for_even_if_no_gradient_was_stored(run) -> None:
    """Both steps whose gradients count for the update at step 3 overflow: step 4 must bring its own."""
    updates = [run.step(BAD if step in (2, 3) else GOOD, LABELS).updates_masks for step in range(1, 8)]
    assert updates == [False, False, False, True, False, True, False]


def test_weights_stay_finite(run) -> None:
    before = copy.deepcopy(run.engine.model.state_dict())
    for images in (GOOD, BAD, GOOD):
        run.step(images, LABELS)
    after = run.engine.model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    assert not same(before, after), "the good steps train"


@pytest.mark.parametrize("method", ["set", "snfs", "granet", "granet_uniform", "gmp", "gmp_uniform"])
def test_every_scheduled_method_makes_up_for_a_lost_update(small_run, method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ramp = RampConfig(end=Length(12, "steps")) if "ramp.end" in METHODS[method].uses else RampConfig()
    config = SparsityConfig(method=method, density=0.4, update=UpdateConfig(interval=Length(3, "steps")), ramp=ramp)
    run = small_run(model, optimizer, config, precision="fp16", total_steps=20)
    for _ in range(5):
        run.step(GOOD, LABELS)
    before = snapshot(run)
    assert not run.step(BAD, LABELS).updates_masks, "due now"
    assert same(snapshot(run), before)
    assert run.step(GOOD, LABELS).updates_masks
    assert run.method.masks.digest() != before["digest"]


@pytest.mark.parametrize("method", ["granet", "granet_uniform", "gmp"])
def test_the_ramp_ends_at_its_density_even_if_its_last_update_was_lost(small_run, method: str) -> None:
    """With an update at every step the next one is past the ramp's end."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    update, ramp = UpdateConfig(interval=Length(1, "steps")), RampConfig(end=Length(5, "steps"))
    config = SparsityConfig(method=method, density=0.25, update=update, ramp=ramp)
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config, precision="fp16", total_steps=20)
    for step in range(1, 9):
        run.step(BAD if step in (5, 6) else GOOD, LABELS)
    assert sum(run.method.masks.active().values()) == 64
