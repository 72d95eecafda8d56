"""The ways to choose what grows and what is dropped: each acts, in each method that drops and grows, with exact counts."""

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import RampConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods.drop_grow.removal import removal
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.structures import NM, Unstructured
from tests.idle import idle

GROWTHS = ["gradient", "random", "momentum", "random_unfired"]
REMOVALS = ["magnitude", "set", "threshold", "taylor"]


def kept(kind: Any, weight: Tensor, active: Tensor, fraction: float, **options: Any) -> Tensor:
    """Which active weights of a row stay, up_rounded."""
    return removal(kind, Unstructured(), weight, active, fraction, round_up=True, **options)


def test_set_removal_is_by_sign_and_the_right_way_round(vectors) -> None:
    death = vectors("itop")["set_death"]
    weight = torch.tensor(death["weights"])
    after = kept("set", weight, weight != 0, death["removal_rate"])
    assert after.int().tolist() == death["correct_mask"] != death["set_reference_mask"]


def test_set_removal_differs_from_magnitude_where_signs_do() -> None:
    weight = torch.tensor([[5.0, 6.0, 7.0, 8.0, -0.1, -0.2]])
    active = torch.ones_like(weight, dtype=torch.bool)
    assert kept("set", weight, active, 0.5).tolist() == [[False, False, True, True, False, True]]
    assert kept("magnitude", weight, active, 0.5).tolist() == [[False, True, True, True, False, False]]


@pytest.mark.parametrize("negatives", range(8))
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_set_removal_drops_as_many_as_planned(negatives: int, fraction: float) -> None:
    weight = torch.where(torch.arange(7) < negatives, -1.0, 1.0)[None]
    active = torch.ones_like(weight, dtype=torch.bool)
    assert int(kept("set", weight, active, fraction).sum()) == 7 - math.ceil(fraction * 7 - 1e-9)


def test_set_removal_of_an_empty_layer() -> None:
    nothing = torch.zeros(1, 5)
    assert not kept("set", nothing, nothing.bool(), 0.5).any()


def test_taylor_removal_is_by_the_change_of_the_loss() -> None:
    weight, gradient = torch.tensor([[1e-30, 2.0, 3.0, -4.0]]), torch.tensor([[9e-9, 0.5, 0.1, -0.2]])
    active = torch.tensor([[True, True, True, True]])
    assert kept("taylor", weight, active, 0.5, gradient=gradient).tolist() == [[False, True, False, True]]


def test_threshold_removal_takes_what_is_smaller() -> None:
    weight, active = torch.tensor([[0.1, -0.2, 0.3, 0.0]]), torch.tensor([[True, True, True, False]])
    assert kept("threshold", weight, active, 0.0, threshold=0.2).tolist() == [[False, True, True, False]]


def test_planned_removal_of_ties_is_kept_to(vectors) -> None:
    ties = vectors("granet_reference_bugs")["ties"]
    weight, active = torch.tensor(ties["weights"]), torch.tensor(ties["mask"]).bool()
    assert ties["cifar_removed"] != ties["planned_removal"]
    assert int(kept("magnitude", weight, active, ties["prune_rate"]).sum()) == int(active.sum()) - ties["planned_removal"]


def config(method: str, growth: str, removal_: str, **keys: Any) -> SparsityConfig:
    update = UpdateConfig(
        interval=Length(2, "steps"),
        growth=growth,
        removal=removal_,
        removal_threshold=0.2 if removal_ == "threshold" else None,
    )
    ramp = RampConfig(initial_density=0.6, end=Length(4, "steps")) if method == "granet" else RampConfig()
    return SparsityConfig(method=method, density=0.3, update=update, ramp=ramp, **keys)


def fresh_run(small_run, config: SparsityConfig):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    return small_run(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), config)


def advance(run, steps: int) -> list[str]:
    digests = []
    for step in range(run.number, run.number + steps):
        run.step(torch.randn(6, 10, generator=torch.Generator().manual_seed(step)), torch.arange(6) % 4)
        digests.append(run.method.masks.digest())
    return digests


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("removal_", REMOVALS)
@pytest.mark.parametrize("method", ["set", "rigl", "granet"])
def test_every_combination_keeps_counts_and_resumes(small_run, method: str, growth: str, removal_: str) -> None:
    whole, saved, resumed = (fresh_run(small_run, config(method, growth, removal_)) for _ in range(3))
    digests = advance(whole, 9)
    assert len(set(digests)) >= 4
    assert sum(whole.method.masks.active().values()) == pytest.approx(84, abs=1)
    advance(saved, 5)
    resumed.engine.load_state_dict(copy.deepcopy(saved.engine.state_dict()))
    resumed.method.load_state_dict(copy.deepcopy(saved.method.state_dict()))
    resumed.method.start()
    resumed.number = 5
    assert advance(resumed, 4) == digests[5:]


@pytest.mark.parametrize("method", ["set", "rigl", "granet"])
def test_every_option_acts(small_run, method: str) -> None:
    """None is parsed and ignored, as the reference's are."""
    growths = {advance(fresh_run(small_run, config(method, growth, "magnitude")), 8)[-1] for growth in GROWTHS}
    removals = {advance(fresh_run(small_run, config(method, "gradient", kind)), 8)[-1] for kind in REMOVALS}
    assert (len(growths), len(removals)) == (len(GROWTHS), len(REMOVALS))


def test_growth_is_the_methods_by_default() -> None:
    assert [resolve(SparsityConfig(method=method, density=0.1)).update.growth for method in ("set", "rigl", "granet")] == [
        "random",
        "gradient",
        "gradient",
    ]


def test_unfired_weights_grow_first(small_run) -> None:
    run = fresh_run(small_run, config("set", "random_unfired", "magnitude"))
    masks = run.method.masks
    while masks.explored("0.weight").sum() < 200 and run.number < 100:
        explored, before = masks.explored("0.weight"), masks["0.weight"]
        advance(run, 1)
        grown = masks["0.weight"] & ~before
        fresh = int((grown & ~explored).sum())
        assert fresh == int(grown.sum()) or masks.explored("0.weight").all(), "none returns while others wait"
    assert masks.explored("0.weight").all()


def test_momentum_growth_averages_dense_gradients(small_run) -> None:
    run = fresh_run(small_run, config("rigl", "momentum", "magnitude"))
    average = torch.zeros(20, 10)

    def add() -> None:
        average.mul_(0.9).add_(0.1 * run.engine.grad("0.weight"))

    for _ in range(3):
        run.step(torch.randn(6, 10), torch.arange(6) % 4, on_averaged=add)
    held = run.method.state_dict()["averages"]["0.weight"]
    assert torch.allclose(held, average) and held[~run.method.masks["0.weight"]].any()


@pytest.mark.parametrize(
    ("update", "key"),
    [
        ({"removal_threshold": 0.1}, "removal_threshold"),
        ({"removal": "threshold", "removal_threshold": 0.1, "drop_fraction": 0.7}, "drop_fraction"),
        ({"growth": "random", "gradient_steps": 3}, "gradient_steps"),
    ],
)
def test_what_another_choice_makes_idle_is_named(update: dict, key: str) -> None:
    config = SparsityConfig(method="rigl", density=0.1, update=UpdateConfig(**update))
    assert list(idle(sparsity=config)) == [f"sparsity.update.{key}"]


def test_threshold_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"removal=threshold needs sparsity\.update\.removal_threshold"):
        resolve(SparsityConfig(method="rigl", density=0.1, update=UpdateConfig(removal="threshold")))


@pytest.mark.parametrize("kind", ["magnitude", "set", "taylor"])
def test_where_units_compete_in_sets_the_fraction_is_of_the_layer(kind: Literal["magnitude", "set", "taylor"]) -> None:
    """30 % of the four active weights of two 2:4 groups; the smallest of the layer (of either sign for ``set``) go."""
    weight = torch.tensor([[0.2, 0.9, 0.0, 0.0, -0.4, 0.0, 0.0, -0.8]])
    active = NM(2, 4).active(weight != 0)
    stay = removal(kind, NM(2, 4), weight, active, 0.3, round_up=True, gradient=torch.ones(1, 8))
    assert stay.tolist() == [[False, True, False, False], [False, False, False, True]]


@pytest.mark.parametrize(("structure", "changed"), [("unstructured", 2), ("filter", 0)])
def test_a_small_fraction_does_not_exchange_a_large_unit(small_run, structure: str, changed: int) -> None:
    """ITOP rounds up: 0.005 of 6 filters would be a sixth of them, at every update to the end of the run."""
    torch.manual_seed(0)
    model = nn.Linear(10, 12)
    update = UpdateConfig(
        form="itop", interval=Length(1, "steps"), drop_fraction=0.005, drop_schedule="constant", growth="random"
    )
    config = SparsityConfig(method="rigl", density=0.5, distribution="uniform", structure=structure, update=update)
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config, total_steps=20)
    run.step(torch.randn(8, 10), torch.arange(8) % 12)
    assert sum(run.method.changed.values()) == changed
