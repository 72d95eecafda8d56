"""Ramps and bounds come to the density that was asked for, whatever the layers begin with."""

import logging
from typing import Any

import pytest
import torch
from torch import Size, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import RampConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.mest.bounds import scaled
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.structures import parse_structure

STEPS = 60
CPU = torch.device("cpu")


def config(method: str, *, density: float, initial: float | None = None, update: dict[str, Any] | None = None, **keys: Any):
    ramp = RampConfig(initial_density=initial, end=Length(30, "steps"))
    updates = UpdateConfig(interval=Length(3, "steps"), **(update or {}))
    return SparsityConfig(method=method, density=density, update=updates, ramp=ramp, **keys)


def plan_of(model: nn.Module, sparsity: SparsityConfig) -> Plan:
    sparsity = resolve(sparsity)
    last = list(sparse_layers(model, []))[-1]
    facts = RunFacts(seed=0, steps_per_epoch=STEPS, total_steps=STEPS, rank=0, world_size=1, device=CPU, classifier=last)
    return plan_method(sparsity, sparse_layers(model, sparsity.keep_dense), facts)


def forecast(plan: Plan) -> tuple[dict[str, float], float]:
    """The density of each layer at the end, and of all together."""
    densities = dict(plan.forecast(range(1, STEPS + 1)).networks[-1].updates[-1].densities)
    sizes = {name: shape.numel() for name, shape in plan.context.shapes.items()}
    return densities, sum(densities[name] * size for name, size in sizes.items()) / sum(sizes.values())


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    """Shapes only."""
    import timm

    with torch.device("meta"):
        return timm.create_model("resnet50")


@pytest.mark.parametrize("structure", ["unstructured", "fan_in", "kernel", "kernel_per_filter", "filter", "channel"])
@pytest.mark.parametrize(("initial", "density"), [(0.5, 0.2), (0.5, 0.45), (0.3, 0.05), (None, 0.1)])
def test_uniform_pruning_arrives_on_resnet50(
    resnet50: nn.Module, initial: float | None, density: float, structure: str
) -> None:
    """From 0.5 to 0.2 it once came to 0.1813: layers that an Erdos-Renyi start leaves below 0.2 did not rise."""
    first = [] if structure in ("unstructured", "fan_in", "filter") else ["conv1.weight"]
    plan = plan_of(resnet50, config("granet_uniform", density=density, initial=initial, structure=structure, keep_dense=first))
    layers, reached = forecast(plan)
    shapes, cut = plan.context.shapes, parse_structure(structure)
    counts = {name: cut.counts(shape) for name, shape in shapes.items()}
    rounding = sum(sets * size / 2 for sets, _, size in counts.values()) / sum(shape.numel() for shape in shapes.values())
    assert reached == pytest.approx(density, abs=rounding + 1e-9)
    for name, (_, units, _) in counts.items():
        begun = plan.active[name] / shapes[name].numel()
        if density >= 0.2:  # the classifier has no density of its own
            assert layers[name] <= begun + 1e-9
            assert layers[name] >= min(begun, density) - 0.51 / units, "none falls below the common density"


@pytest.mark.parametrize("update", [{}, {"redistribution": "magnitude"}], ids=["", "redistributed"])
@pytest.mark.parametrize("initial", [None, 0.7, 0.4])
def test_a_run_arrives_where_it_was_forecast(small_run, initial: float | None, update: dict[str, Any]) -> None:
    """Layers that share out weights between them hold less than the common density too, from any start."""
    sizes = [(200, 12), (12, 12), (12, 300), (300, 6)]
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in sizes))
    sparsity = config("granet_uniform", density=0.3, initial=initial, update=update)
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.01), sparsity, total_steps=STEPS)
    for step in range(STEPS):
        run.step(torch.randn(8, 200, generator=torch.Generator().manual_seed(step)), torch.arange(8) % 6)
        if step + 1 == 30:
            arrived = sum(run.method.masks.active().values())
    total = sum(a * b for a, b in sizes)
    assert arrived == sum(run.method.masks.active().values()) == pytest.approx(0.3 * total, abs=len(sizes) / 2)
    if not update:
        layers, _ = forecast(plan_of(model, sparsity))
        assert run.method.masks.densities() == pytest.approx(layers, abs=1e-9)


@pytest.mark.parametrize("method", ["gmp", "granet"])
def test_units_that_do_not_fit_a_density_are_refused_or_told(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Pruned over all layers by units of 200 weights: 30 weights hold none, 450 two, which is far from 450."""
    model = nn.Sequential(nn.Linear(200, 12), nn.Linear(12, 50))
    with pytest.raises(UserError, match="would keep 30 weights, and the largest unit of structure filter has 200"):
        plan_of(model, config(method, density=0.01, structure="filter"))
    with caplog.at_level(logging.WARNING, "dist_sparse"):
        plan_of(model, config(method, density=0.15, structure="filter"))
    assert (
        "whole units of structure filter, up to 200 weights each, may end at any density from 0.0837 to 0.1500" in caplog.text
    )


@pytest.mark.parametrize("method", ["gmp_uniform", "granet_uniform"])
def test_whole_units_of_a_ramp_s_end_that_are_far_from_its_density_are_told(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Sequential(nn.Linear(200, 12), nn.Linear(12, 50))
    with caplog.at_level(logging.WARNING, "dist_sparse"):
        plan = plan_of(model, config(method, density=0.21, structure="filter"))
    _, reached = forecast(plan)
    assert f"whole units of structure filter make the density {reached:.4f} instead of 0.2100" in caplog.text


def test_a_bound_is_met_where_a_table_s_layers_become_dense() -> None:
    """0.9 and 0.1 of 10 and 30 weights (0.3) scaled to 0.6: the first can take 10 of 24, so the other takes 14."""
    shapes = {"a": Size([10]), "b": Size([30])}
    assert scaled(shapes, {"a": 0.9, "b": 0.1}, 0.6) == pytest.approx({"a": 1.0, "b": 14 / 30})
    assert scaled(shapes, {"a": 0.9, "b": 0.1}, 1.0) == {"a": 1.0, "b": 1.0}
