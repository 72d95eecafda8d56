"""AST's rules by themselves, against the reference's results, corrected where it is wrong: when, what, and by how much."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.ast.correction import correct_
from dist_sparse.sparsity.methods.ast.method import Ast, AstPlan
from dist_sparse.sparsity.methods.ast.pruners import DensityPruner, GroupPruner, Layers
from dist_sparse.sparsity.methods.ast.schedule import SubNetSchedule
from dist_sparse.sparsity.methods.base import Decision
from dist_sparse.sparsity.schedules import Constant, Cosine, CubicRamp, UpdateSchedule, share_of
from dist_sparse.sparsity.structures import NM
from dist_sparse.step import TrainStep
from tests.sparsity.planned import by_hand

CPU = torch.device("cpu")
RAMP = CubicRamp(initial=1.0, final=0.1, first=0, last=4)


@pytest.mark.parametrize("recipe", ["cifar", "imagenet", "tiny"])
def test_each_subnet_updates_after_as_many_of_its_steps_as_the_references(vectors, recipe: str) -> None:
    """There the update precedes the optimizer's step, here it follows it: at the sub-net's turn before, K steps earlier."""
    count, epoch, epochs, interval, offset, start, end = {
        "cifar": (3, 391, 160, 999, 300, 0, 110),
        "imagenet": (2, 5004, 150, 4000, 800, 5, 30),
        "tiny": (3, 50, 40, 33, 21, 0, 25),
    }[recipe]
    finals = {"imagenet": [0.5, 0.05]}.get(recipe, [0.1, 0.05, 0.02])
    total, first, last = epoch * epochs, start * epoch // interval, end * epoch // interval
    sub_nets = SubNetSchedule(
        pruners=[DensityPruner(ramp=CubicRamp(initial=1.0, final=final, first=first, last=last)) for final in finals],
        updates=UpdateSchedule(
            interval=interval, start=start * epoch, end=total, drop=Cosine(start=0.5, floor=0.005, end=total)
        ),
        offset=offset,
        last=last,
    )
    times, updates = [0] * count, {}
    for step in range(1, total + 1):
        number = (step - 1) % count
        now = sub_nets.time(number, step)
        if (regular := sub_nets.due(number, times[number], now)) is not None:
            pruning = sub_nets.pruning(times[number], regular)
            target = None if pruning is None else 1 - float(sub_nets.pruners[number].ramp(pruning))
            updates[step - 1 + count] = number, regular, target, sub_nets.fraction(number, regular)
        times[number] = now
    known = vectors("ast_02_update_schedule")[recipe]
    rows = known["rows"] if recipe == "tiny" else [*known["first"], *known["last_ramp"], *known["last"]]
    assert list(updates)[:12] == [row[0] for row in rows[:12]]
    for time, number, prune_step, _, target, rate in rows:
        found = updates[time]
        assert found[:2] == (number, prune_step)
        assert found[2] == (target if target is None else pytest.approx(target, abs=1e-6))
        assert found[3] == pytest.approx(rate, abs=2e-3 if recipe == "tiny" else 5e-5)


def test_an_interval_that_does_not_divide_is_kept_on_average(vectors) -> None:
    """The reference waits for the least common multiple: with three sub-nets every 120 steps instead of 40."""
    params = vectors("ast_02_update_schedule")["non_divisible"]["params"]
    schedule = UpdateSchedule(interval=params["freq"], end=1000, drop=Constant(start=0.5))
    sub_nets = SubNetSchedule(pruners=[DensityPruner(ramp=RAMP)] * 3, updates=schedule, offset=params["offset"], last=9)
    times, updates = [0] * 3, [0] * 3
    for step in range(1, 361):
        number = (step - 1) % 3
        now = sub_nets.time(number, step)
        updates[number] += sub_nets.due(number, times[number], now) is not None
        times[number] = now
    assert updates == [9, 9, 9]


def test_the_end_of_the_ramp_is_not_passed_over() -> None:
    schedule = UpdateSchedule(interval=2, end=100, drop=Constant(start=0.5))
    sub_nets = SubNetSchedule(pruners=[DensityPruner(ramp=RAMP)] * 3, updates=schedule, offset=0, last=5)
    assert [sub_nets.pruning(before, before + 3 - (before + 3) % 2) for before in (0, 3, 6, 9, 12)] == [1, 3, 4, 5, None]


@pytest.mark.usefixtures("group")
def test_growth_sees_dense_gradients(vectors) -> None:
    """Through the model: the reference's gradients are masked, so that only what was just dropped can come back."""
    case = vectors("ast_03_death_growth")
    weight, gradient = torch.tensor(case["weight"]), torch.tensor(case["dense_gradient"])
    model = nn.Linear(4, 3, bias=False)
    model.weight.data.copy_(weight)
    engine = DDPEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        lambda out, grad: (out.T * grad).sum(),
        precision=Precision(device=CPU),
    )
    masks = Masks({"weight": model.weight})
    masks.replace({"weight": torch.tensor(case["mask_before"]).bool()})
    schedule = UpdateSchedule(interval=1, end=10, drop=Constant(start=case["prune_rate"]))
    sub_nets = SubNetSchedule(pruners=[DensityPruner(ramp=RAMP)], updates=schedule, offset=0, last=0)
    plan = AstPlan(**by_hand(Ast, {"weight": model.weight}), schedule=sub_nets, correction="none", zero_unused=False)
    method = Ast(
        plan,
        access=engine,
        masks=masks,
        agreement=Agreement({"weight": weight.shape}, rank=0, world_size=1, device=CPU),
        remask=False,
    )
    method.start()
    train_step = TrainStep(engine, method)
    train_step.forward_backward(1, torch.eye(4), gradient)
    assert train_step.optimizer_step(1).decision == Decision(updates_masks=True)
    assert torch.equal(method.masks["weight"], torch.tensor(case["mask_after_dense_grad"]).bool())
    assert not torch.equal(method.masks["weight"], torch.tensor(case["mask_after_masked_grad"]).bool())
    assert torch.equal(model.weight, weight), "what grows keeps its value"


def test_correction_is_the_projection(vectors) -> None:
    case = vectors("ast_04_gradient_correction")
    ones = torch.ones(2, 2, dtype=torch.bool)

    def corrected(one: list, other: list, kind: Any = "whole", mask: Tensor = ones) -> Tensor:
        gradient = torch.tensor(one)
        correct_(gradient, torch.tensor(other), mask, kind)
        return gradient

    assert torch.allclose(corrected(case["g_i"], case["g_j"]), torch.tensor(case["corrected"]))
    assert not torch.allclose(corrected(case["g_i"], case["g_j"]), torch.tensor(case["reference_training_loop"]))
    agreeing = case["non_conflicting"]
    assert torch.equal(corrected(agreeing["g_i"], agreeing["g_j"]), torch.tensor(agreeing["result"]))
    assert torch.equal(corrected(case["g_i"], [[0.0, 0.0], [0.0, 0.0]]), torch.tensor(case["g_i"]))

    case = vectors("ast_10_gc_support")
    mask = torch.tensor(case["mask_i"]).bool()
    for kind, variant in (("whole", "A"), ("within_mask", "C")):
        found = corrected(case["g_i"], case["g_j"], kind, mask)
        assert torch.allclose(found, torch.tensor(case[variant]))
        assert float(found @ torch.tensor(case["g_j"])) == pytest.approx(case[f"{variant}_dot_gj"], abs=1e-6)


def layers(weights: dict[str, Tensor]) -> Layers:
    return Layers(
        weights=weights,
        masks=Masks(weights),
        candidates=None,
        agreement=Agreement({name: each.shape for name, each in weights.items()}, rank=0, world_size=1, device=CPU),
    )


def test_a_layer_that_would_lose_everything_keeps_one(vectors) -> None:
    size = vectors("ast_05_collapsed_layer")["layer_b_numel"]
    weights = {"a": torch.linspace(1, 2, 20), "b": torch.linspace(0.01, 0.02, size)}
    pruner = DensityPruner(ramp=RAMP)
    masks = pruner.prune(3, 1, layers(weights))
    assert sum(int(mask.sum()) for mask in masks.values()) == share_of(RAMP(3), 20 + size)
    assert masks["b"].tolist() == [False] * (size - 1) + [True]
    regrown = pruner.regrow(weights["b"], masks["b"], torch.linspace(1, 0, size), 0.5)
    assert int(regrown.sum()) == 1


@pytest.mark.parametrize("zero", [False, True])
def test_counts_are_exact_with_ties(zero: bool) -> None:
    weights = {"a": torch.ones(20), "b": torch.zeros(6), "c": torch.cat([torch.ones(5), torch.full((5,), 2.0)])}
    among = {name: torch.ones(len(each), dtype=torch.bool) for name, each in weights.items()}
    if zero:
        among["a"][:4] = False
    candidates = Masks(weights)
    candidates.replace(among)
    found = dataclasses.replace(layers(weights), candidates=candidates if zero else None)
    masks = DensityPruner(ramp=RAMP).prune(2, 1, found)
    assert sum(int(mask.sum()) for mask in masks.values()) == share_of(RAMP(2), 36)
    assert masks["b"].tolist() == [True] + [False] * 5
    assert masks["c"][5:].all()
    assert not masks["a"][~among["a"]].any()


def test_dense_groups_are_drawn_and_regrown(vectors) -> None:
    case = vectors("ast_07_nm_ramp")
    groups, share = case["groups"], case["p"]
    torch.manual_seed(0)
    weight = torch.randn(1, 4 * groups)
    structure = NM(2, 4)
    chosen = set()
    for seed in range(5):
        # Half way down a ramp of one number per half.
        pruner = GroupPruner(ramp=CubicRamp(initial=1.0, final=0.0, first=0, last=2), structure=structure, seed=seed)
        assert share_of(pruner.ramp(1), groups) == 1
        dense = structure.active(pruner.prune(1, 1, layers({"w": weight}))["w"]).all(1)
        assert int(dense.count_nonzero()) == 1
        chosen.add(tuple(dense.tolist()))
    assert len(chosen) > 1, "not always the first groups"

    sums = torch.tensor(case["group_l1"])
    weight = (sums[:, None] * torch.tensor([0.1, 0.4, 0.2, 0.3])).view(1, -1)
    gradient = torch.zeros(groups, 4)
    dense = torch.arange(groups) % 2 == 0
    gradient[[1, 7]] = 1.0
    mask = structure.mask(dense[:, None] | torch.tensor([False, True, False, True]), weight.shape)
    after = structure.active(pruner.regrow(weight, mask, gradient.view(1, -1), share))
    # Of groups 0, 2, 4 and 6 those of smallest norm go (4 and 6); 1 and 7 come by their gradient.
    assert after.all(1).nonzero().view(-1).tolist() == [0, 1, 2, 7]
    assert after[~after.all(1)].tolist() == [[False, True, False, True]] * 4
