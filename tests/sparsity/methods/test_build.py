"""From a configuration to a method: defaults, warnings, errors of one line, and initial masks."""

import dataclasses
import logging
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import AstConfig, RampConfig, ShuffledBlockConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.build import begin, plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.schedules import Constant, Cosine, Linear
from dist_sparse.sparsity.structures import parse_structure
from tests.idle import idle

WEIGHTS = {"conv.weight": torch.ones(16, 8, 3, 3), "fc.weight": torch.ones(10, 16)}


class Weights:
    """The part of an engine that building a method needs."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {name: weight.clone() for name, weight in weights.items()}

    def weight(self, name: str) -> Tensor:
        return self.weights[name]

    grad = weight

    def mask_weights(self, masks: Masks) -> None:
        masks.multiply_({name: self.weights[name] for name in masks.names})

    mask_gradients = mask_optimizer_state = mask_weights


def build(config: SparsityConfig, *, weights: Mapping[str, Tensor] = WEIGHTS, seed: int = 0, total_steps: int = 1000) -> Method:
    run = RunFacts(seed=seed, steps_per_epoch=100, total_steps=total_steps, rank=0, world_size=1, device=torch.device("cpu"))
    return begin(plan_method(resolve(config), weights, run)).bind(Weights(weights), remask=False)


def sparse(method: str = "rigl", density: float | None = 0.1, **keys) -> SparsityConfig:
    return SparsityConfig(method=method, density=density, **keys)


def updating(**keys) -> SparsityConfig:
    return sparse(update=UpdateConfig(**keys))


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_defaults_of_the_original_form(method: str) -> None:
    """RigL's ImageNet setting; updates end at three quarters of the run."""
    update = resolve(sparse(method)).update
    assert (update.interval, update.end) == (Length(100, "steps"), Length(0.75, "run"))
    assert (update.drop_fraction, update.drop_schedule, update.drop_floor) == (0.3, "cosine", 0.0)


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_defaults_of_the_itop_form(method: str) -> None:
    update = resolve(sparse(method, update=UpdateConfig(form="itop"))).update
    assert (update.interval, update.end) == (Length(1000, "steps"), Length(1.0, "run"))
    assert (update.drop_fraction, update.drop_schedule, update.drop_floor) == (0.5, "cosine", 0.005)


def test_what_is_given_stays_and_resolving_twice_changes_nothing() -> None:
    config = resolve(updating(interval=Length(7, "steps"), drop_fraction=0.0, drop_floor=0.0))
    assert config.update.interval == Length(7, "steps") and config.update.drop_fraction == 0.0
    assert resolve(config) == config


@pytest.mark.parametrize("method", ["dense", "static"])
def test_methods_that_do_not_move_get_no_schedule(method: str) -> None:
    config = resolve(sparse(method, density=None if method == "dense" else 0.1))
    assert config.update == UpdateConfig()
    assert config.distribution == (None if method == "dense" else "erk")


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (sparse("dense"), ["density"]),
        (sparse("dense", keep_dense=["first"], distribution="uniform"), ["density", "distribution", "keep_dense"]),
        (sparse("static", update=UpdateConfig(interval=Length(5, "steps"))), ["update.interval"]),
        (sparse("set", update=UpdateConfig(gradient_steps=3)), ["update.gradient_steps"]),
        (updating(gradient_steps=3, interval=Length(5, "steps")), []),
        (sparse("static"), []),
        (SparsityConfig(method="dense"), []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_keys_that_a_method_does_not_use_are_named(config: SparsityConfig, keys: list[str]) -> None:
    assert list(idle(sparsity=config)) == [f"sparsity.{key}" for key in keys]


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (sparse("rgil"), ["sparsity.method='rgil' is unknown", "did you mean rigl", "known: dense, static, set, rigl"]),
        (sparse("zzzz"), ["sparsity.method='zzzz' is unknown; known: dense"]),
        (sparse(structure="unstructurd"), ["sparsity.structure='unstructurd' is unknown", "did you mean unstructured"]),
        (sparse(density=None), ["sparsity.density is needed for method rigl", "such as 0.1"]),
        (
            sparse(distribution="table", table={"*": 0.1}),
            ["sparsity.density and sparsity.distribution=table exclude each other"],
        ),
        (sparse(density=None, distribution="table"), ["sparsity.distribution=table needs sparsity.table"]),
        (sparse(table={"*": 0.1}), ["sparsity.table needs sparsity.distribution=table, not erk"]),
        (sparse(density=None, distribution="table", table={"conv*": 0.1}), ["no pattern fits layer 'fc.weight'"]),
        (
            sparse(density=None, distribution="table", table={"*": 1e-3}),
            ["sparsity.table", "'fc.weight' would keep 0 of its 160 units"],
        ),
        (updating(interval=Length(0.001, "epochs")), ["sparsity.update.interval=0.001 epochs is less than one step"]),
        (updating(interval=Length(4, "steps"), gradient_steps=5), ["gradient_steps=5 is longer than the interval of 4 steps"]),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)
def test_a_users_mistake_is_one_line(config: SparsityConfig, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build(config)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_a_density_out_of_reach_names_the_highest_sparsity() -> None:
    with pytest.raises(
        UserError, match=r"sparsity\.density=0\.001 cannot be reached.*'fc\.weight'.*is 0\.9968 \(density 0\.0032\)"
    ) as caught:
        build(sparse(density=0.001, distribution="uniform"))
    assert "\n" not in str(caught.value)
    assert build(sparse(density=0.0032, distribution="uniform")).masks.active()["fc.weight"] == 1


def test_masks_that_never_move_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build(sparse(), total_steps=100)
    assert "the masks never move: the first update would be at step 100 and updates end at step 75" in caplog.text


@pytest.mark.parametrize(
    ("keys", "drop"),
    [
        ({}, Cosine(start=0.3, floor=0.0, end=750)),
        ({"form": "itop"}, Cosine(start=0.5, floor=0.005, end=1000)),
        ({"drop_schedule": "linear", "drop_floor": 0.1, "end": Length(2, "epochs")}, Linear(start=0.3, floor=0.1, end=200)),
        ({"drop_schedule": "constant", "drop_fraction": 0.2}, Constant(start=0.2)),
    ],
    ids=["original", "itop", "linear", "constant"],
)
def test_schedules_in_steps(keys: dict, drop: object) -> None:
    assert build(updating(**keys))._schedule.drop == drop


@pytest.mark.parametrize("method", ["static", "set", "rigl"])
@pytest.mark.parametrize("distribution", ["erk", "er", "uniform"])
def test_initial_masks_have_the_allocated_counts(method: str, distribution: str) -> None:
    masks = build(sparse(method, density=0.25, distribution=distribution)).masks
    assert sum(masks.active().values()) == pytest.approx(0.25 * (1152 + 160), abs=1)
    assert masks.active() == {name: int(masks[name].sum()) for name in masks.names}
    assert masks.exploration() == masks.density()


def test_initial_masks_are_the_same_for_all_methods_and_differ_by_seed_and_layer() -> None:
    first = build(sparse("rigl")).masks.digest()
    assert first == build(sparse("set")).masks.digest() == build(sparse("static")).masks.digest()
    assert first != build(sparse("rigl"), seed=1).masks.digest()
    twins = {"a": torch.ones(20, 20), "b": torch.ones(20, 20)}
    masks = build(sparse("static", distribution="uniform"), weights=twins).masks
    assert not torch.equal(masks["a"], masks["b"])


def test_table_gives_each_layer_its_density() -> None:
    config = sparse("static", density=None, distribution="table", table={"conv*": 0.5, "*": 0.1})
    assert build(config).masks.active() == {"conv.weight": 576, "fc.weight": 16}


def test_start_applies_the_masks() -> None:
    method = build(sparse("static"))
    method.start()
    assert all(torch.equal(method.access.weight(name), method.masks[name].float()) for name in WEIGHTS)


def test_dense_masks_nothing() -> None:
    method = build(SparsityConfig(method="dense"))
    method.start()
    assert len(method.masks) == 0 and all(weight.all() for weight in method.access.weights.values())


@pytest.mark.parametrize("saved_at", [3, 4], ids=["before an update", "after an update"])
@pytest.mark.parametrize("structure", ["unstructured", "block:2x1", "fan_in", "pattern"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_from_its_own_state(small_run, name: str, structure: str, saved_at: int) -> None:
    """Seven steps with a break are seven steps without one (the optimizer's state travels with the engine)."""
    update = UpdateConfig(interval=Length(2, "steps"), gradient_steps=2)
    keys: dict = {} if name in ("dense", "static") else {"update": update}
    patterns = structure == "pattern"
    if "ramp.end" in METHODS[name].uses:
        keys["ramp"] = RampConfig(start=Length(0, "steps"), end=Length(6, "steps"), initial_density=0.4 if patterns else None)
    if patterns:
        keys |= {"distribution": "uniform", "keep_dense": ["last"]}
    if name == "shuffled_block":
        keys["shuffled_block"] = ShuffledBlockConfig(size=2)
    if name == "ast":
        keys["ast"] = AstConfig(densities=[0.3])
    if METHODS[name].refusal(parse_structure(structure)):
        return
    if METHODS[name].condition(parse_structure(structure)):
        keys["update"] = dataclasses.replace(update, redistribution="none")
    config = sparse(name, density=0.3, structure=structure, **keys)
    whole, saved, resumed = (fresh_run(small_run, config, kernels=patterns or name == "shuffled_block") for _ in range(3))
    advance(whole, 7)
    advance(saved, saved_at)
    resumed.engine.load_state_dict(saved.engine.state_dict())
    resumed.method.load_state_dict(saved.method.state_dict())
    resumed.method.start()
    resumed.number = saved_at
    advance(resumed, 7 - saved_at)
    assert resumed.method.masks.digest() == whole.method.masks.digest()
    assert resumed.method.masks.exploration() == whole.method.masks.exploration()
    weights = zip(resumed.engine.model.parameters(), whole.engine.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


def fresh_run(small_run, config: SparsityConfig, *, kernels: bool = False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 4))
    if kernels:
        convolutions = nn.Conv2d(10, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        model = nn.Sequential(nn.Unflatten(1, (10, 1, 1)), *convolutions, nn.Flatten(), nn.Linear(16, 4))
    return small_run(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), config)


def advance(run, steps: int) -> None:
    for step in range(run.number, run.number + steps):
        images = torch.randn(6, 10, generator=torch.Generator().manual_seed(step))
        run.step(images, torch.arange(6) % 4)
