"""Static masks: how they are chosen, and that they then rest. SNIP against its equation, written down again."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.structures import STRUCTURES, parse_structure
from tests.idle import idle


def config(init: str = "snip", **keys: Any) -> SparsityConfig:
    return SparsityConfig(**{"method": "static", "density": 0.3, "init": init, **keys})


def model() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 8))


def batch(number: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(number)), torch.arange(8)


def run_of(small_run, network: nn.Module, settings: SparsityConfig, **keys: Any):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    return small_run(network, optimizer, settings, **keys)


def sensitivities(network: nn.Module) -> dict[str, Tensor]:
    """|w dL/dw| of the dense network on the first batch."""
    twin = copy.deepcopy(network)
    images, labels = batch()
    nn.functional.cross_entropy(twin(images), labels).backward()
    return {name: (p * p.grad).detach().abs() for name, p in twin.named_parameters() if p.ndim > 1 and p.grad is not None}


def test_snip_keeps_the_most_sensitive_of_the_whole_network(small_run) -> None:
    network = model()
    expected, before = sensitivities(network), copy.deepcopy(network.state_dict())
    run = run_of(small_run, network, config())
    assert run.method.masks.density() == 1, "dense until there is a gradient"
    decision = run.step(*batch())
    assert decision.skip_optimizer and decision.updates_masks
    masks, total = run.method.masks, sum(score.numel() for score in expected.values())
    assert sum(masks.active().values()) == round(0.3 * total)
    kept = torch.cat([score[masks[name]] for name, score in expected.items()])
    lost = torch.cat([score[~masks[name]] for name, score in expected.items()])
    assert kept.min() >= lost.max()
    assert len({round(density, 3) for density in masks.densities().values()}) == 3, "over all layers, not in each"
    for name in masks.names:
        assert network.get_parameter(name).equal(before[name] * masks[name]), "the step moved nothing but the masks"
    assert network[6].bias.equal(before["6.bias"])
    assert masks.exploration() == pytest.approx(masks.density())


def test_snip_chooses_once(small_run) -> None:
    run = run_of(small_run, model(), config())
    run.step(*batch())
    digest = run.method.masks.digest()
    for number in range(1, 4):
        decision = run.step(*batch(number))
        assert not decision.skip_optimizer and not decision.updates_masks
        assert run.method.masks.digest() == digest
    for name in run.method.masks.names:
        weight, mask = run.engine.weight(name), run.method.masks[name]
        assert not weight[~mask].count_nonzero() and weight[mask].count_nonzero()
        assert not run.per_weight_state(name)["momentum_buffer"][~mask].count_nonzero()


@pytest.mark.parametrize("structure", [cls.example for cls in STRUCTURES.values()])
def test_snip_keeps_whole_units(small_run, structure: str) -> None:
    cutter = parse_structure(structure)
    density = cutter.density or 0.3
    network = model()
    distribution = None if cutter.layer_wide else "uniform"
    settings = config(density=density, distribution=distribution, structure=structure, keep_dense=["last"])
    run = run_of(small_run, network, settings)
    expected = sensitivities(network)
    run.step(*batch())
    masks = run.method.masks
    sizes = [cutter.counts(masks[name].shape)[2] for name in masks.names]
    total = sum(masks[name].numel() for name in masks.names)
    room = 8 * 4 if not cutter.layer_wide else max(sizes)  # half a unit in each set, or the unit that did not fit
    assert abs(sum(masks.active().values()) - density * total) <= room * max(sizes)
    for name in masks.names:
        active = cutter.active(masks[name])
        assert torch.equal(cutter.mask(active, masks[name].shape, before=masks[name]), masks[name])
        if not cutter.layer_wide:
            assert active.sum(1).unique().numel() == 1
            score = cutter.score(expected[name])
            assert all(row[kept].min() >= row[~kept].max() for row, kept in zip(score, active, strict=True))


def test_an_overflow_leaves_the_choice_to_the_next_step(small_run) -> None:
    network = model()
    run = run_of(small_run, network, config(), precision="fp16")
    before = copy.deepcopy(network.state_dict())
    images, labels = batch()
    for _ in range(2):
        assert not run.step(images * 1e30, labels).updates_masks
    assert run.method.masks.density() == 1
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert run.step(images, labels).updates_masks
    assert run.method.masks.density() == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_snip_resumes_before_and_after_the_choice(small_run, stop: int) -> None:
    first, second = run_of(small_run, model(), config()), run_of(small_run, model(), config())
    for number in range(stop):
        first.step(*batch(number))
    second.engine.load_state_dict(copy.deepcopy(first.engine.state_dict()))
    second.method.load_state_dict(copy.deepcopy(first.method.state_dict()))
    second.method.start()
    second.number = first.number
    for number in range(stop, stop + 3):
        assert first.step(*batch(number)) == second.step(*batch(number))
        assert first.method.masks.digest() == second.method.masks.digest()
        assert first.method.masks.exploration() == second.method.masks.exploration()
        for name in first.method.masks.names:
            assert first.engine.weight(name).equal(second.engine.weight(name))


def test_magnitude_keeps_each_layers_largest(small_run) -> None:
    weights = {name: p.detach().clone() for name, p in model().named_parameters() if p.ndim > 1}
    masks = run_of(small_run, model(), config("magnitude", distribution="uniform")).method.masks
    for name, weight in weights.items():
        assert int(masks[name].sum()) == int(0.3 * weight.numel() + 0.5)
        assert weight[masks[name]].abs().min() > weight[~masks[name]].abs().max()


def test_random_is_the_default_and_differs(small_run) -> None:
    digests = {init: run_of(small_run, model(), config(init)).method.masks.digest() for init in ("random", "magnitude")}
    assert run_of(small_run, model(), SparsityConfig(method="static", density=0.3)).method.masks.digest() == digests["random"]
    assert digests["random"] != digests["magnitude"]


def test_what_does_nothing_is_named() -> None:
    assert idle(sparsity=config("snip")) == {}
    assert idle(sparsity=config("snip", structure="fan_in", distribution="uniform")) == {}
    reason = "sparsity.init=snip chooses over all layers"
    assert idle(sparsity=config("snip", distribution="uniform")) == {"sparsity.distribution": reason}
    assert idle(sparsity=config("snip", method="rigl")) == {"sparsity.init": "method rigl does not use it"}


def test_mistakes_are_one_line(small_run) -> None:
    with pytest.raises(UserError, match=r"sparsity\.distribution=table does not go with sparsity\.init=snip"):
        resolve(config("snip", density=None, distribution="table", table={"*": 0.1}))
    with pytest.raises(UserError, match=r"density=0\.01 cannot be reached: all layers together would keep .* has [0-9]+$"):
        run_of(small_run, model(), config("snip", density=0.01, structure="filter", keep_dense=["last"]))
