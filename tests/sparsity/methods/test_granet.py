"""GraNet and GMP: against the reference's results, corrected where it is wrong, and exact along the whole ramp."""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import RampConfig, SparsityConfig, UpdateConfig
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.drop_grow.plan import DropAndGrowPlan
from dist_sparse.sparsity.methods.granet import GraNet, GraNetPlan
from dist_sparse.sparsity.methods.pruning.pruners import GlobalPruner, UniformPruner, classifier_to_spare
from dist_sparse.sparsity.methods.rigl import RigL
from dist_sparse.sparsity.schedules import Constant, CubicRamp, UpdateSchedule, share_of
from dist_sparse.sparsity.structures import Unstructured
from dist_sparse.step import TrainStep
from tests.sparsity.planned import by_hand

CPU = torch.device("cpu")


class TwoLayers(nn.Module):
    """Each layer sees the identity, so that its weight's gradient is what its output is multiplied by."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in weights)
        for layer, weight in zip(self.layers, weights, strict=True):
            layer.weight.data.copy_(weight)

    def forward(self, _: Tensor) -> Tensor:
        return torch.cat([layer(torch.eye(layer.in_features)).T.reshape(-1) for layer in self.layers])


def updated(case: dict[str, Any]) -> tuple[TwoLayers, Masks, torch.optim.Optimizer]:
    """The state after the vector's update, from its weights, gradients and masks and a momentum of 1 everywhere."""
    weights, gradients, masks = (
        [torch.tensor(layer) for layer in case[key]] for key in ("weights_before", "grads", "masks_before")
    )
    model = TwoLayers(weights)
    # A step that changes neither weights nor momentum.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=1.0, dampening=1.0)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    engine = DDPEngine(model, optimizer, lambda out, grad: (out * grad).sum(), precision=Precision(device=CPU))
    held = Masks(dict(model.named_parameters()))
    held.replace(dict(zip(held.names, (mask.bool() for mask in masks), strict=True)))
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    agreement = Agreement(shapes, rank=0, world_size=1, device=CPU)
    schedule = UpdateSchedule(interval=1, end=10**6, drop=Constant(start=case["prune_rate"]))
    parts: dict[str, Any] = {"access": engine, "masks": held, "agreement": agreement, "remask": False}
    parameters: dict[str, Any] = {"schedule": schedule, "form": "itop", "growth": "gradient"}
    weights_of = dict(model.named_parameters())
    if case["method"] == "DST":
        method = RigL(DropAndGrowPlan(**by_hand(RigL, weights_of), **parameters), **parts)
    else:
        ramp = CubicRamp(initial=case["init_density"], final=case["final_density"], first=0, last=case["final_index"])
        pruner = GlobalPruner(ramp=ramp, interval=1, structure=Unstructured())
        method = GraNet(GraNetPlan(**by_hand(GraNet, weights_of), **parameters, pruner=pruner), **parts)
    method.start()
    step, train_step = case["update_index"], TrainStep(engine, method)
    train_step.forward_backward(step, torch.zeros(1), torch.cat([gradient.reshape(-1) for gradient in gradients]))
    assert train_step.optimizer_step(step).decision.updates_masks
    return model, held, optimizer


def cases(vectors: Callable[[str], dict[str, Any]], which: str) -> list[dict[str, Any]]:
    return [case for case in vectors("granet_step")["cases"] if case["which"] == which]


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("number", [0, 1], ids=["GraNet", "DST"])
def test_a_step_is_the_references(vectors, number: int) -> None:
    """The ImageNet code's, whose counts are exact where its threshold is not 0."""
    case = cases(vectors, "imagenet")[number]
    model, masks, optimizer = updated(case)
    for layer, name in enumerate(masks.names):
        weight = model.get_parameter(name)
        assert torch.equal(masks[name], torch.tensor(case["masks_after_regen"][layer]).bool())
        assert torch.equal(weight, torch.tensor(case["weights_after"][layer]))
        assert torch.equal(optimizer.state[weight]["momentum_buffer"], torch.tensor(case["momentum_after"][layer]))
    assert list(masks.active().values()) == case["nnz"][-1]


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("number", [0, 1])
def test_the_one_that_the_cifar_code_loses_stays(vectors, number: int) -> None:
    case = cases(vectors, "cifar")[number]
    _, masks, _ = updated(case)
    assert sum(case["nnz"][-1]) == case["keep"] - 1
    assert sum(masks.active().values()) == case["keep"]


def test_the_cubic_ramp_is_the_references(vectors) -> None:
    for case in vectors("cubic_schedule")["cases"]:
        ramp = CubicRamp(initial=case["init_density"], final=case["final_density"], first=case["ini"], last=case["fin"])
        for row in case["targets"]:
            assert 1 - float(ramp(row["i"])) == pytest.approx(row["sparsity"], abs=1e-14)
        shortfall = float(ramp(case["fin"] - 1)) - case["final_density"]
        assert shortfall == pytest.approx(case["shortfall_at_last"], rel=1e-6)
        assert ramp(case["fin"]) == ramp(case["fin"] + 9) == Fraction(str(case["final_density"])), "the last update arrives"
        assert ramp(case["ini"]) == Fraction(str(case["init_density"]))


def test_counts_are_not_misled_by_binary_fractions() -> None:
    assert int(10_000 * (1 - 0.8)) == 1999
    assert share_of(CubicRamp(initial=1.0, final=0.2, first=0, last=3)(3), 10_000) == 2000


def model_of(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))


def config(method: str, *, initial: float | None = None, density: float = 0.1, **update: Any) -> SparsityConfig:
    return SparsityConfig(
        method=method,
        density=density,
        update=UpdateConfig(interval=Length(2, "steps"), **update),
        ramp=RampConfig(initial_density=initial, start=Length(4, "steps"), end=Length(13, "steps")),
    )


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize(
    ("method", "initial"), [("gmp", None), ("gmp_uniform", None), ("granet", 0.5), ("granet_uniform", None)]
)
@pytest.mark.parametrize("distinct", [2, 1000], ids=["many ties", "few ties"])
def test_counts_follow_the_ramp(small_run, method: str, initial: float | None, optimizer: type, distinct: int) -> None:
    """Updates 2 to 6 (steps 4 to 12) ramp, the last of them to the final density; state off the mask is 0 throughout."""
    model = model_of(20, 30, 25, 10)
    run = small_run(model, optimizer(model.parameters(), lr=0.01), config(method, initial=initial))
    ramp = CubicRamp(initial=initial or 1.0, final=0.1, first=2, last=6)
    total, previous = 600 + 750 + 250, sum(run.method.masks.active().values())
    draws = torch.Generator().manual_seed(1)
    for step in range(1, 21):
        decision = run.step(torch.randn(8, 20, generator=draws), torch.arange(8))
        counts = run.method.masks.active()
        if method.endswith("uniform"):
            expected = {name: share_of(ramp(step // 2), model.get_parameter(name).numel()) for name in counts}
            assert counts == expected
        else:
            assert sum(counts.values()) == min(previous, share_of(ramp(step // 2), total))
        assert decision.updates_masks == (step % 2 == 0 and step >= 4 and (method.startswith("granet") or step <= 12))
        for name, mask in ((name, run.method.masks[name]) for name in counts):
            weight = model.get_parameter(name)
            for tensor in (weight, *run.per_weight_state(name).values()):
                assert not tensor[~mask].any()
            weight.data = (weight.data * distinct).round() / distinct * mask
    assert sum(counts.values()) == pytest.approx(160, abs=1)


def test_what_gmp_prunes_never_returns_and_granet_regenerates(small_run) -> None:
    kept = {}
    for method in ("gmp", "granet"):
        model = model_of(20, 30, 10)
        run = small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config(method))
        inactive = ~run.method.masks["0.weight"]
        returned = 0
        for step in range(20):
            run.step(torch.randn(8, 20, generator=torch.Generator().manual_seed(step)), torch.arange(8))
            returned += int((run.method.masks["0.weight"] & inactive).sum())
            inactive = ~run.method.masks["0.weight"]
        kept[method] = returned
    assert kept["gmp"] == 0 < kept["granet"]


def test_global_pruning_shares_out_by_magnitude(small_run) -> None:
    model = model_of(20, 20, 20)
    model[1].weight.data *= 100
    run = small_run(model, torch.optim.SGD(model.parameters(), lr=1e-9), config("gmp", density=0.4))
    for _ in range(12):
        run.step(torch.randn(4, 20), torch.arange(4))
    assert run.method.masks.active() == {"0.weight": 0, "1.weight": 320}


def test_a_classifier_keeps_a_fifth() -> None:
    shapes = {"conv": torch.Size([100, 90]), "fc": torch.Size([10, 100])}
    ramp = CubicRamp(initial=1.0, final=0.05, first=0, last=10)
    pruner = UniformPruner(ramp=ramp, interval=1, structure=Unstructured(), shapes=shapes, classifier="fc")
    assert pruner.densities(Fraction(1, 4)) == {"conv": Fraction(1, 4), "fc": Fraction(1, 4)}
    densities = pruner.densities(Fraction(1, 20))
    assert densities == {"conv": Fraction(300, 9000), "fc": Fraction(1, 5)}, "0.05 * 10,000 less 200 for the classifier"


@pytest.mark.parametrize(
    ("shapes", "density", "spared"),
    [
        ({"conv": (100, 90), "fc": (10, 100)}, 0.05, "fc"),
        ({"conv": (100, 90)}, 0.05, None),
        ({"fc": (10, 100)}, 0.05, None),
        ({"conv": (10, 10), "fc": (10, 100)}, 0.05, None),
    ],
    ids=["spared", "not masked", "alone", "too large"],
)
def test_when_a_classifier_is_spared(shapes: dict, density: float, spared: str | None) -> None:
    """The reference divides by zero or misses an attribute where its counts of weights were never made."""
    sizes = {name: torch.Size(shape) for name, shape in shapes.items()}
    assert classifier_to_spare("fc", sizes, density) == spared


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"initial": 0.05}, r"sparsity\.ramp\.initial_density=0\.05 is below sparsity\.density=0\.1"),
        (
            {"end": Length(13, "steps")},
            r"sparsity\.ramp\.end is at step 12, when updates \(sparsity\.update\.end\) are over at step 12",
        ),
    ],
)
def test_a_ramp_that_cannot_be_is_one_line(small_run, keys: dict, message: str) -> None:
    model = model_of(20, 10)
    if "end" in keys:
        keys = {"end": Length(12, "steps")}
    with pytest.raises(UserError, match=message):
        small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), config("granet", **keys))


def test_a_ramp_without_an_update_is_one_line(small_run) -> None:
    model = model_of(20, 10)
    empty = SparsityConfig(method="gmp", density=0.1, ramp=RampConfig(start=Length(5, "steps"), end=Length(100, "steps")))
    with pytest.raises(UserError, match=r"from step 5 to step 100: no update falls into it, one in 1000 steps"):
        small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), empty)


def test_table_is_refused(small_run) -> None:
    model = model_of(20, 10)
    table = SparsityConfig(method="granet", density=0.1, distribution="table", table={"*": 0.5})
    with pytest.raises(UserError, match="distribution=table does not go with method granet"):
        small_run(model, torch.optim.SGD(model.parameters(), lr=0.1), table)
