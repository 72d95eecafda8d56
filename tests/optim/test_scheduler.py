"""The learning rate over a run."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD

from dist_sparse.config import Length
from dist_sparse.config.schema import SchedulerConfig
from dist_sparse.errors import UserError
from dist_sparse.optim import build_scheduler
from dist_sparse.seeding import generator
from tests.idle import idle


def rates(config: SchedulerConfig, total: int = 100, steps_per_epoch: int = 10, lr: float = 0.5) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = build_scheduler(config, optimizer, steps_per_epoch=steps_per_epoch, total_steps=total)
    found = [optimizer.param_groups[0]["lr"]]
    for step in range(1, total + 1):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_cosine():
    found = rates(SchedulerConfig(min_lr=0.01))
    assert found[0] == 0.5
    assert found[50] == pytest.approx(0.255)
    assert found[99] == pytest.approx(0.01 + 0.49 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert found[100] == 0.01


@pytest.mark.parametrize("name", ["cosine", "constant", "multistep", "poly", "wsd"])
def test_warmup_is_linear_and_reaches_the_peak(name):
    milestones = [Length(0.5, "run")] if name == "multistep" else []
    found = rates(SchedulerConfig(name=name, warmup=Length(2, "epochs"), warmup_lr=0.1, milestones=milestones))
    assert found[:20] == pytest.approx([0.1 + 0.4 * step / 20 for step in range(20)])
    assert found[20] == max(found) == 0.5


def test_cosine_after_warmup_ends_with_the_run():
    found = rates(SchedulerConfig(warmup=Length(20, "steps")))
    assert found[60] == pytest.approx(0.25)
    assert found[99] < 0.001
    assert found[100] == 0.0


def test_multistep_counts_from_the_start_of_the_run():
    milestones = [Length(0.75, "run"), Length(30, "steps"), Length(5, "epochs")]
    found = rates(SchedulerConfig(name="multistep", milestones=milestones, decay_rate=0.5, warmup=Length(1, "epochs")))
    assert found[10:30] == [0.5] * 20
    assert found[30:50] == [0.25] * 20
    assert found[50:75] == [0.125] * 25
    assert found[75:] == [0.0625] * 26


def test_step_and_constant_and_poly():
    found = rates(SchedulerConfig(name="step", decay_every=Length(4, "epochs"), decay_rate=0.5))
    assert found == [0.5] * 40 + [0.25] * 40 + [0.125] * 21
    assert rates(SchedulerConfig(name="constant")) == [0.5] * 101
    assert rates(SchedulerConfig(name="poly", decay_rate=1.0))[25:101:25] == pytest.approx([0.375, 0.25, 0.125, 0.0])


@pytest.mark.parametrize("name", ["cosine", "tanh", "poly", "wsd", "rsqrt", "constant", "step", "multistep"])
def test_rate_is_a_pure_function_of_the_step(name):
    config = SchedulerConfig(
        name=name, warmup=Length(7, "steps"), milestones=[Length(0.5, "run")], decay_every=Length(11, "steps"), min_lr=0.01
    )
    straight = rates(config)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = build_scheduler(config, optimizer, steps_per_epoch=10, total_steps=100)
    for step in torch.randperm(101, generator=generator("order")).tolist():
        scheduler.step_update(step)
        assert optimizer.param_groups[0]["lr"] == straight[step]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SchedulerConfig(name="cosin"), "did you mean cosine"),
        (SchedulerConfig(name="plateau"), "scheduler.name=plateau"),
        (SchedulerConfig(name="multistep"), "scheduler.milestones"),
        (SchedulerConfig(name="step"), "scheduler.decay_every"),
        (SchedulerConfig(name="step", decay_every=Length(0, "steps")), "scheduler.decay_every"),
        (SchedulerConfig(name="rsqrt"), "scheduler.name=rsqrt"),
        (SchedulerConfig(warmup=Length(10, "epochs")), "scheduler.warmup=10 epochs: is 100 steps, the run has only 100"),
    ],
)
def test_scheduler_mistakes(config, words):
    with pytest.raises(UserError) as caught:
        rates(config)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (SchedulerConfig(milestones=[Length(5, "steps")], decay_rate=0.5), ["milestones", "decay_rate"]),
        (SchedulerConfig(name="constant", min_lr=0.1), ["min_lr"]),
        (SchedulerConfig(warmup_lr=0.1), ["warmup_lr"]),
        (SchedulerConfig(warmup=Length(5, "steps"), warmup_lr=0.1, min_lr=0.1), []),
        (SchedulerConfig(name="step", decay_every=Length(5, "steps"), decay_rate=0.5), []),
    ],
)
def test_settings_that_have_no_effect_are_said(config, keys):
    assert list(idle(scheduler=config)) == [f"scheduler.{key}" for key in keys]


def test_a_milestone_after_the_run_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        rates(SchedulerConfig(name="multistep", milestones=[Length(200, "steps")]))
    assert "step 200 lies past the run's last step, 99" in caplog.text
