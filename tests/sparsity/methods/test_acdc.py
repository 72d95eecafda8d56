"""AC/DC: dense and sparse phases in their places, and what comes back begins anew."""

import pytest
import torch
from torch import nn

from dist_sparse.config.duration import Length, Unit
from dist_sparse.config.sparsity import RampConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.acdc import AcDcPlan
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.resolve import resolve


def config(unit: Unit, start: int, interval: int, end: int) -> SparsityConfig:
    update, ramp = UpdateConfig(interval=Length(interval, unit)), RampConfig(start=Length(start, unit), end=Length(end, unit))
    return SparsityConfig(method="acdc", density=0.25, update=update, ramp=ramp)


def steps_of(sparsity: SparsityConfig, epochs: int, steps_per_epoch: int) -> list[int]:
    total = epochs * steps_per_epoch
    run = RunFacts(seed=0, steps_per_epoch=steps_per_epoch, total_steps=total, rank=0, world_size=1, device=torch.device("cpu"))
    plan = plan_method(resolve(sparsity), {"w": torch.ones(8, 8)}, run)
    assert isinstance(plan, AcDcPlan)
    return list(plan.schedule.steps)


def test_the_phases_are_the_authors() -> None:
    """ResNet-50 of IST-DASLab/ACDC: compressed at epochs 10, 20 ... 70 and 85, decompressed at 15, 25 ... 65 and 75."""
    epochs = [step // 10 for step in steps_of(config("epochs", 10, 5, 85), 100, 10)]
    assert epochs[::2] == [*range(10, 71, 10), 85]
    assert epochs[1::2] == [*range(15, 66, 10), 75]


def test_a_run_that_ends_with_its_ramp_is_refused() -> None:
    with pytest.raises(UserError, match=r"ramp\.end=100 epochs leaves none of the run's 1000 steps to the compressed network"):
        steps_of(config("epochs", 10, 5, 100), 100, 10)


def test_dense_and_sparse_phases(small_run) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = small_run(model, optimizer, config("steps", 2, 2, 8), total_steps=10)
    total, densities = 8 * 16 + 16 * 4, []
    for step in range(1, 11):
        weights = {name: model.get_parameter(name) for name in run.method.masks.names}
        run.step(torch.randn(6, 8, generator=torch.Generator().manual_seed(step)), torch.arange(6) % 4)
        densities.append(round(run.method.masks.density() * total))
        active = sum(int(weight.count_nonzero()) for weight in weights.values())
        assert active == densities[-1] or densities[-1] == total  # what comes back is 0 until a step has moved it
        if step in (4, 8):
            assert not any(run.per_weight_state(name) for name in weights) or step == 8
    # Dense, compressed after step 2, decompressed after 4, and once more each; no phase is left before step 8.
    assert densities == [192, 48, 48, 192, 192, 192, 192, 48, 48, 48]
    assert run.method.at_final_density()
