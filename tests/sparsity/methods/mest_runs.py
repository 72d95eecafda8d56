"""MEST in small: configurations, and a linear layer to train."""

import torch
from torch import nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import MestConfig, SparsityConfig, UpdateConfig

EM = MestConfig(keep=[0.08, 0.09, 0.1], grow_to=[0.1, 0.1, 0.1])
EMS = MestConfig(keep=[0.1, 0.1, 0.1], grow_to=[0.15, 0.125, 0.1])


def config(mest: MestConfig = EM, *, density: float = 0.1, interval: int = 2, **keys) -> SparsityConfig:
    update = UpdateConfig(interval=Length(interval, "steps"))
    return SparsityConfig(
        **{"method": "mest", "density": density, "distribution": "uniform", "update": update, "mest": mest, **keys}
    )


def linear_run(small_run, mest: MestConfig, *, seed: int = 0, **keys):
    torch.manual_seed(0)
    model = nn.Linear(40, 25, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    return small_run(model, optimizer, config(mest, **keys), total_steps=16, seed=seed)


def step(run):
    draws = torch.Generator().manual_seed(run.number)
    return run.step(torch.randn(8, 40, generator=draws), torch.randint(25, (8,), generator=draws))
