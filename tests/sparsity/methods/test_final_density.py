"""When a method's network is at the density that was asked for: only then can it be the run's best."""

import dataclasses

import pytest
import torch
from torch import nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import AstConfig, MestConfig, RampConfig, ShuffledBlockConfig, SparsityConfig, UpdateConfig
from dist_sparse.sparsity.methods import METHODS

STEPS = 16
UPDATE = UpdateConfig(interval=Length(2, "steps"))
RAMP = RampConfig(start=Length(0, "steps"), end=Length(11, "steps"))
MEST = MestConfig(decay=[Length(4, "steps"), Length(9, "steps")])
FALLING = dataclasses.replace(MEST, keep=[0.3, 0.3, 0.3], grow_to=[0.5, 0.4, 0.3])

CASES: dict[str, tuple[SparsityConfig, int]] = {
    "dense": (SparsityConfig(method="dense"), 1),
    "static": (SparsityConfig(method="static", density=0.3), 1),
    "snip": (SparsityConfig(method="static", density=0.3, init="snip"), 1),
    "set": (SparsityConfig(method="set", density=0.3, update=UPDATE), 1),
    "rigl": (SparsityConfig(method="rigl", density=0.3, update=UPDATE), 1),
    "snfs": (SparsityConfig(method="snfs", density=0.3, update=UPDATE), 1),
    "shuffled_block": (
        SparsityConfig(method="shuffled_block", density=0.3, update=UPDATE, shuffled_block=ShuffledBlockConfig(size=0)),
        1,
    ),
    "gmp": (SparsityConfig(method="gmp", density=0.3, update=UPDATE, ramp=RAMP), 10),
    "gmp_uniform": (SparsityConfig(method="gmp_uniform", density=0.3, update=UPDATE, ramp=RAMP), 10),
    "granet": (SparsityConfig(method="granet", density=0.3, update=UPDATE, ramp=RAMP), 10),
    "granet, sparse start": (
        SparsityConfig(method="granet", density=0.3, update=UPDATE, ramp=dataclasses.replace(RAMP, initial_density=0.5)),
        10,
    ),
    "granet_uniform": (SparsityConfig(method="granet_uniform", density=0.3, update=UPDATE, ramp=RAMP), 10),
    "granet_uniform, filters": (
        SparsityConfig(method="granet_uniform", density=0.3, structure="filter", update=UPDATE, ramp=RAMP),
        10,
    ),
    "acdc": (SparsityConfig(method="acdc", density=0.3, update=UPDATE, ramp=RAMP), 11),
    "top_kast": (SparsityConfig(method="top_kast", density=0.3, update=UPDATE), 1),
    "mest": (SparsityConfig(method="mest", density=0.3, update=UPDATE, mest=MEST), 1),
    "mest, soft bound": (SparsityConfig(method="mest", density=0.3, update=UPDATE, mest=FALLING), 11),
    "ast": (
        # One update in two steps of each sub-net's own time; the second sub-net's comes a step after the first one's.
        SparsityConfig(method="ast", update=UPDATE, ramp=RAMP, ast=AstConfig(densities=[0.5, 0.3], offset=Length(0, "steps"))),
        10,
    ),
    "ast, groups": (
        SparsityConfig(
            method="ast", update=UPDATE, ramp=RAMP, ast=AstConfig(structures=["nm:2:4", "nm:1:4"], offset=Length(0, "steps"))
        ),
        10,
    ),
    "srste": (SparsityConfig(method="srste", structure="nm:1:4"), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_from_when_on_the_density_is_final(small_run, case: str) -> None:
    """From the given step on (the ramp's last update, or the last phase's mutation), and so it stays."""
    config, expected = CASES[case]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 4))
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), config, total_steps=STEPS)
    final, densities = [], []
    for step in range(STEPS):
        run.step(torch.randn(6, 16, generator=torch.Generator().manual_seed(step)), torch.arange(6) % 4)
        final.append(run.method.at_final_density())
        densities.append(run.method.networks()[-1].masks.density())
    first = final.index(True)
    assert all(final[first:])
    assert set(densities[first:]) == {densities[-1]}
    if config.structure != "filter" and config.method != "acdc":  # which may hold as many a little before, or for a phase
        assert not any(density == densities[-1] for density in densities[:first]), "it could have been told earlier"
    assert abs(first + 1 - expected) <= (2 if config.method == "ast" else 0)


def test_every_method_is_among_the_cases() -> None:
    assert {config.method for config, _ in CASES.values()} == set(METHODS)


def test_an_update_that_was_lost_delays_it(small_run) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 4))
    config, last = CASES["gmp"]
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.05), config, total_steps=STEPS, precision="fp16")
    good, labels = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    for step in range(1, last + 2):
        run.step(good * 1e30 if step == last else good, labels)
        assert run.method.at_final_density() == (step > last)
