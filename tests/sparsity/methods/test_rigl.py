"""RigL on one layer, step by step: against the TensorFlow code's results, and with another structure."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.drop_grow.plan import DropAndGrowPlan
from dist_sparse.sparsity.methods.rigl import RigL
from dist_sparse.sparsity.schedules import Constant, UpdateSchedule, drop_count
from dist_sparse.sparsity.structures import NM, FanIn, Filter, Structure
from dist_sparse.step import TrainStep
from tests.sparsity.planned import by_hand

CPU = torch.device("cpu")


class Layer:
    """A linear layer with given weight, mask and momentum, under a real engine; its gradient is whatever ``step`` is told."""

    def __init__(
        self, weight: Tensor, mask: Tensor, momentum: Tensor, *, structure: Structure | None = None, **method: Any
    ) -> None:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.weight = module.weight
        self.weight.data.copy_(weight)
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
        self.optimizer.state[self.weight]["momentum_buffer"] = momentum.clone()
        # The layer sees the identity, so that its weight's gradient is what its output is multiplied by.
        self.engine = DDPEngine(module, self.optimizer, lambda out, grad: (out * grad).sum(), precision=Precision(device=CPU))
        self.masks = Masks({"weight": self.weight})
        self.masks.replace({"weight": mask})
        agreement = Agreement({"weight": weight.shape}, rank=0, world_size=1, device=CPU)
        parameters = {"form": "original", "growth": "gradient", **method}
        plan = DropAndGrowPlan(**by_hand(RigL, {"weight": self.weight}, structure), **parameters)
        self.method = RigL(plan, access=self.engine, masks=self.masks, agreement=agreement, remask=False)
        self.method.start()
        self.train_step = TrainStep(self.engine, self.method)
        self.number = 0

    def step(self, gradient: Tensor) -> bool:
        """One step with this gradient of the weight; True if the masks moved."""
        self.number += 1
        self.train_step.forward_backward(self.number, torch.eye(self.weight.shape[1]), gradient.T.contiguous())
        assert torch.equal(self.engine.grad("weight"), gradient)
        return self.train_step.optimizer_step(self.number).decision.updates_masks

    @property
    def momentum(self) -> Tensor:
        return self.optimizer.state[self.weight]["momentum_buffer"]


def always(fraction: float, interval: int = 1) -> UpdateSchedule:
    return UpdateSchedule(interval=interval, end=10**6, drop=Constant(start=fraction))


@pytest.fixture(params=range(3))
def case(request: pytest.FixtureRequest, vectors: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return vectors("rigl_step")["cases"][request.param]


@pytest.mark.usefixtures("group")
def test_original_form_is_the_reference(case: dict[str, Any]) -> None:
    weight, mask, gradient, momentum = (torch.tensor(case[key]) for key in ("weight", "mask", "grad", "momentum"))
    layer = Layer(weight, mask.bool(), momentum, schedule=always(case["drop_fraction"]))
    assert layer.step(gradient)
    expected = {key: torch.tensor(value) for key, value in case["tf_semantics"].items() if key.endswith("_after")}
    assert torch.equal(layer.masks["weight"], expected["mask_after"].bool())
    assert torch.equal(layer.weight, expected["weight_after"])
    assert torch.equal(layer.momentum, expected["momentum_after"])
    assert layer.masks.active() == {"weight": case["tf_semantics"]["n_active"]}


@pytest.mark.usefixtures("group")
def test_itop_form_rounds_up_and_steps_first(case: dict[str, Any]) -> None:
    """``ceil(f n)`` drop after the optimizer's step; the rate is 0 here, so that only the momentum shows that step."""
    weight, mask, gradient, momentum = (torch.tensor(case[key]) for key in ("weight", "mask", "grad", "momentum"))
    active, drop = int(mask.sum()), case["granet_itop_removal_would_be"]
    assert drop == drop_count(case["drop_fraction"], active, up=True)
    layer = Layer(weight, mask.bool(), momentum, schedule=always(case["drop_fraction"]), form="itop")
    assert layer.step(gradient)

    after = torch.zeros(weight.numel(), dtype=torch.bool)
    by_magnitude = sorted(mask.view(-1).nonzero().view(-1).tolist(), key=lambda i: (-abs(weight.view(-1)[i].item()), i))
    after[by_magnitude[: active - drop]] = True
    by_gradient = sorted((~after).nonzero().view(-1).tolist(), key=lambda i: (-abs(gradient.view(-1)[i].item()), i))
    after[by_gradient[:drop]] = True
    after = after.view_as(mask)
    assert torch.equal(layer.masks["weight"], after) and int(after.sum()) == active
    assert torch.equal(layer.weight, weight * after)
    assert torch.equal(layer.momentum, (0.9 * momentum + gradient * mask) * after)


@pytest.mark.usefixtures("group")
def test_dropped_and_grown_again_keeps_value_and_momentum() -> None:
    layer = Layer(
        torch.tensor([[0.9, 0.1, 0.5, 0.3, 0.0, 0.0]]),
        torch.tensor([[True, True, True, True, False, False]]),
        torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0, 0.0]]),
        schedule=always(0.5),
    )
    layer.step(torch.tensor([[9.0, -3.0, 9.0, 0.0, -2.0, 1.0]]))
    assert layer.weight.tolist() == [pytest.approx([0.9, 0.1, 0.5, 0.0, 0.0, 0.0])]
    assert layer.momentum.tolist() == [[1.0, 2.0, 3.0, 0.0, 0.0, 0.0]]
    assert layer.masks["weight"].tolist() == [[True, True, True, False, True, False]]
    assert layer.method.changed == {"weight": 2}


@pytest.mark.usefixtures("group")
def test_growth_is_scored_by_the_mean_gradient_of_the_last_steps() -> None:
    """Mean first, absolute value after: what cancels out does not grow, and what came before the window does not count."""
    gradients = torch.tensor([[0.0, 9.0, 9.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0, 2.0], [0.0, 0.0, -4.0, 3.0, 2.0]])
    weight, mask = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]), torch.tensor([[True, False, False, False, False]])
    layer = Layer(weight, mask, torch.zeros(1, 5), schedule=always(1.0, interval=3), gradient_steps=2)
    assert [layer.step(gradient[None]) for gradient in gradients] == [False, False, True]
    assert layer.masks["weight"].int().tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("form", ["original", "itop"])
def test_filters_drop_and_grow_whole(form: str) -> None:
    weight = torch.tensor([[3.0, 3.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [False, False], [False, False]])
    gradient = torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 0.0], [4.0, 4.0]])  # the norm of (4, 4) is larger than 5
    layer = Layer(weight, mask, torch.zeros(4, 2), schedule=always(0.5), structure=Filter(), form=form)
    layer.step(gradient)
    assert layer.masks["weight"].int().tolist() == [[1, 1], [0, 0], [0, 0], [1, 1]]
    assert layer.weight.tolist() == [[3, 3], [0, 0], [0, 0], [0, 0]]


@pytest.mark.usefixtures("group")
def test_each_row_of_a_structure_keeps_its_own_count() -> None:
    draws = torch.Generator().manual_seed(0)
    mask = torch.arange(10) < torch.tensor([[2], [5], [9], [10]])
    layer = Layer(torch.randn(4, 10, generator=draws), mask, torch.zeros(4, 10), schedule=always(0.4), structure=FanIn())
    for _ in range(5):
        layer.step(torch.randn(4, 10, generator=draws))
        assert layer.masks["weight"].sum(1).tolist() == [2, 5, 9, 10]
    assert not torch.equal(layer.masks["weight"], mask)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(("form", "dropped"), [("original", 1), ("itop", 2)])
def test_the_fraction_is_of_the_layer_and_each_set_grows_what_it_lost(form: str, dropped: int) -> None:
    """30 % of the four active weights of two 2:4 groups: the worst of the layer, 0.2, and in ITOP's rounding the next, 0.4."""
    weight = torch.tensor([[0.2, 0.9, 0.0, 0.0, 0.4, 0.0, 0.0, 0.8]])
    gradient = torch.tensor([[0.0, 9.0, 1.0, 2.0, 0.0, 3.0, 4.0, 9.0]])
    layer = Layer(weight, weight > 0, torch.zeros(1, 8), schedule=always(0.3), structure=NM(2, 4), form=form)
    layer.step(gradient)
    second = [0, 0, 1, 1] if dropped == 2 else [1, 0, 0, 1]
    assert layer.masks["weight"].int().tolist() == [[0, 1, 0, 1, *second]]
