"""Units that go from several networks of one shape at once, and networks that are widened again."""

import copy

import pytest
import torch
from torch import nn

from dist_sparse.shrinking.in_training import find_narrowing
from dist_sparse.shrinking.narrow import narrow, widen
from dist_sparse.shrinking.plan import Plan, original_units
from dist_sparse.sparsity.structures import parse_structure
from tests.shrinking.networks import images, masked, network, random_masks, randomised

NETWORKS = {
    "cifar_resnet20": ({}, 32),
    "mobilenetv2_050": ({}, 32),
    "regnetx_002": ({}, 32),
    "vit_tiny_patch16_224": ({"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}, 32),
}


@pytest.mark.parametrize("structure", ["filter", "channel"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_of_both_stay_as_they_are(name: str, structure: str) -> None:
    """The second one has constants of its own."""
    kwargs, side = NETWORKS[name]
    first = network(name, **kwargs)
    second = randomised(copy.deepcopy(first), torch.Generator().manual_seed(11)).eval()
    masks = random_masks(first, parse_structure(structure))
    found = find_narrowing([first, second], masks, images(side))
    assert found is not None
    assert not found.plan.biases
    for model, changed in zip((first, second), found.changed, strict=True):
        expected = masked(copy.deepcopy(model), masks)(images(side))
        small = copy.deepcopy(model)
        narrow(small, found.plan, changed)
        apply_masks(small, found.plan, masks)
        torch.testing.assert_close(small(images(side)), expected, rtol=1e-10, atol=1e-10)
        assert sum(each.numel() for each in small.parameters()) < sum(each.numel() for each in model.parameters())
        whole = widen(small, found.plan)
        torch.testing.assert_close(whole(images(side)), expected, rtol=1e-10, atol=1e-10)
        again = copy.deepcopy(whole)
        narrow(again, found.plan, {})
        torch.testing.assert_close(again.state_dict(), small.state_dict(), rtol=0, atol=0)
        narrow(small, Plan(), {}, found.plan)  # back to the whole width
        assert {key: each.shape for key, each in small.state_dict().items()} == {
            key: each.shape for key, each in model.state_dict().items()
        }


def apply_masks(small: nn.Module, plan: Plan, masks: dict[str, torch.Tensor]) -> None:
    masked(small, {name: plan.cut(name, mask) for name, mask in masks.items()})


GROUPED = {
    "inputs first, until groups have one each": (8, [{"0": 8}, {"3": 16}]),
    "inputs and outputs at once": (8, [{"0": 8, "3": 16}, {"6": 8}]),
    "depthwise, until one channel is left": (32, [{"0": 16}, {"0": 1}, {"6": 8}]),
}
"""Groups of the middle layer; then how many filters of a layer are left, evenly spread, before each narrowing."""


@pytest.mark.parametrize("case", GROUPED)
def test_groups_stay_what_they_are_in_a_network_that_narrows_again(case: str) -> None:
    """A convolution whose groups are left with one input each looks depthwise, and a depthwise one with one channel dense."""
    groups, steps = GROUPED[case]
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, side, cut in ((3, 32, 1, 1), (32, 32, 3, groups), (32, 16, 1, 1)):
        convolution = nn.Conv2d(inputs, outputs, side, padding=side // 2, groups=cut, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).double().eval()
    names = [f"{place}.weight" for place in (0, 3, 6)]
    masks = {name: torch.ones_like(model.get_parameter(name), dtype=torch.bool) for name in names}
    small, plan = copy.deepcopy(model), Plan()
    for left in steps:
        for name, number in left.items():
            mask = masks[f"{name}.weight"]
            mask[torch.arange(len(mask)) % (len(mask) // number) > 0] = False
        expected = masked(copy.deepcopy(model), masks)(images(8))
        there = {name: mask & original_units(plan, name, mask.shape).mask(mask.shape) for name, mask in masks.items()}
        found = find_narrowing([widen(small, plan)], there, images(8))
        assert found is not None
        assert found.plan != plan
        narrow(small, found.plan, found.changed[0], plan)
        plan = found.plan
        apply_masks(small, plan, masks)
        torch.testing.assert_close(small(images(8)), expected, rtol=1e-10, atol=1e-10)
        whole = widen(small, plan)
        torch.testing.assert_close(whole(images(8)), expected, rtol=1e-10, atol=1e-10)
        assert [repr(layer) for layer in whole.children()] == [repr(layer) for layer in model]


def test_nothing_to_remove_is_nothing() -> None:
    model = network("cifar_resnet20")
    assert find_narrowing([model], {}, images(32)) is None


def test_a_layer_without_a_bias_gets_none() -> None:
    """What it would have to take over stays."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6), nn.ReLU(), nn.Linear(6, 5, bias=False)).double().eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, 1.0]))
    mask = torch.ones(6, 48, dtype=torch.bool)
    mask[:2] = False  # constants 1 and 0
    found = find_narrowing([model], {"1.weight": mask}, images(4))
    assert found is not None
    assert found.plan.kept["1.weight"]["0"] == [0, 2, 3, 4, 5]


def test_a_plan_of_another_network_is_told() -> None:
    plan = Plan(shapes={"a": [4, 2]}, kept={"a": {"0": [0, 3]}})
    assert plan.misfit({"a": [4, 2]}) is None
    assert plan.misfit({"a": [3, 2]}) == "a"
    assert plan.misfit({}) == "a"
    assert Plan(shapes={"a": [4, 2]}, kept={"a": {"0": [0, 4]}}).misfit({"a": [4, 2]}) == "a"
    assert Plan.from_state(plan.state_dict()) == plan


@pytest.mark.parametrize("groups", [1, 2])
def test_expanding_undoes_cutting(groups: int) -> None:
    weight = torch.randn(6, 4, 3, 3)
    plan = Plan(shapes={"w": [6, 4, 3, 3]}, kept={"w": {"0": [0, 2, 3, 5]}})
    if groups == 2:
        plan.columns["w"] = [[0, 3], [1, 2]]
    cut = plan.cut("w", weight)
    whole = plan.expand("w", cut, fill=7.0)
    torch.testing.assert_close(plan.cut("w", whole), cut, rtol=0, atol=0)
    assert int((whole == 7.0).sum()) == weight.numel() - cut.numel()
    there = whole != 7.0
    torch.testing.assert_close(whole[there], weight[there], rtol=0, atol=0)
