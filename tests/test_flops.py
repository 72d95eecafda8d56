"""Multiply-accumulates, the cost of training and the table of layers, against ResNet-50's published figures."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from dist_sparse.flops import LayerRow, layer_macs, layer_table, sparse_macs, training_cost

VECTORS = Path(__file__).parent / "vectors"
ERK = json.loads((VECTORS / "erk_resnet50.json").read_text())
FLOPS = json.loads((VECTORS / "flops_resnet50.json").read_text())


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("resnet50")


@pytest.fixture(scope="module")
def macs(resnet50: nn.Module) -> dict[str, int]:
    return layer_macs(resnet50, (3, 224, 224))


def densities(row: dict) -> dict[str, float]:
    """Uniform densities leave the stem dense; ERK's are in the vectors."""
    names = [layer["name"] for layer in ERK["layers"]]
    if row["dist"] == "uniform":
        return {name: 1.0 if name == "conv1.weight" else row["density"] for name in names}
    return dict(zip(names, erk_densities(row["density"]), strict=True))


def erk_densities(density: float) -> list[float]:
    record = ERK["by_density"][str(density)]
    dense, epsilon = set(record["dense_layers"]), record["epsilon"]
    return [1.0 if layer["name"] in dense else epsilon * layer["raw_erk"] for layer in ERK["layers"]]


def test_resnet50_layer_by_layer(resnet50: nn.Module, macs: dict[str, int]) -> None:
    assert list(macs) == [layer["name"] for layer in ERK["layers"]]
    assert list(macs.values()) == [layer["macs"] for layer in ERK["layers"]]
    assert sum(macs.values()) == ERK["dense_macs"] == 4_089_184_256
    assert sum(resnet50.get_parameter(name).numel() for name in macs) == ERK["total_maskable_params"] == 25_502_912


@pytest.mark.parametrize("row", [row for row in FLOPS["rows"] if row["dist"] in ("erk", "uniform")], ids=str)
def test_costs_are_the_published_ones(row: dict, macs: dict[str, int]) -> None:
    forward = sparse_macs(macs, densities(row)) / sum(macs.values())
    assert forward == pytest.approx(row["test"], rel=1e-9)
    assert training_cost(forward, forward) == pytest.approx(row["static_set"], rel=1e-9)
    assert training_cost(forward, forward + (1 - forward) / 101) == pytest.approx(row["rigl"], rel=1e-9)
    assert training_cost(forward, forward + (1 - forward) / 4001) == pytest.approx(row["rigl_dT4000"], rel=1e-9)
    assert training_cost(forward, 1) == pytest.approx(row["snfs"], rel=1e-9)


@pytest.mark.parametrize("row", [row for row in FLOPS["rows"] if row["dist"].startswith("GMP")], ids=str)
def test_cost_of_gradual_pruning(row: dict, macs: dict[str, int]) -> None:
    """Cubic ramp from step 10,000 to 25,000 of 32,000; stem dense, classifier at its target from the start."""
    target, total = row["density"], sum(macs.values())

    def forward(step: int) -> float:
        left = 1 - min(max((step - 10_000) / 15_000, 0), 1)
        density = target + (1 - target) * left**3
        table = dict.fromkeys(macs, density) | {"conv1.weight": 1.0, "fc.weight": target}
        return sparse_macs(macs, table) / total

    mean = sum(forward(step) for step in range(0, 32_000, 100)) / 320
    assert training_cost(mean, mean) == pytest.approx(row["train"], rel=2e-3)
    assert forward(32_000) == pytest.approx(row["test"], rel=1e-9)


def test_linear_layers_count_tokens_and_groups_count_once() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),  # 8*2*3*3 weights at 6*5 positions
        nn.Flatten(2),  # [1, 8, 30]
        nn.Linear(30, 7),  # 8 tokens
        nn.Unflatten(2, (7, 1)),
        nn.ConvTranspose2d(8, 2, 2, stride=2),  # 8*2*2*2 weights at 7 input positions
    )
    assert layer_macs(model, (4, 6, 5)) == {"0.weight": 144 * 30, "2.weight": 210 * 8, "4.weight": 64 * 7}


class Odd(nn.Module):
    """Weights that are shared, standardised, handed over by name, or not used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.unused = StandardisedConv(3, 4, 1), nn.Linear(4, 4, bias=False), nn.Linear(4, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.conv(x)[:, :3]).mean((2, 3))
        return self.linear(nn.functional.linear(input=x, weight=self.linear.weight))


class StandardisedConv(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


def test_odd_uses_of_a_weight() -> None:
    assert layer_macs(Odd(), (3, 5, 5)) == {"conv.weight": 2 * 12 * 25, "linear.weight": 2 * 16, "unused.weight": 0}


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "nfnet_l0", "swin_tiny_patch4_window7_224"])
def test_every_layer_of_timms_networks_is_found(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert min(layer_macs(model, (3, 224, 224)).values()) > 0


def test_the_model_is_left_alone() -> None:
    model = timm.create_model("cifar_resnet20")
    model.layer1.eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    layer_macs(model, (3, 32, 32))
    assert model.training and not model.layer1.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_sparse_macs_leaves_unnamed_layers_dense() -> None:
    assert sparse_macs({"a": 100, "b": 10}, {"a": 0.25}) == 35


def test_table() -> None:
    rows = [
        LayerRow("conv1.weight", (16, 3, 3, 3), 1.0, "-", 432, 442_368),
        LayerRow("fc.weight", (10, 64), 0.5, "unstructured", 320, 640),
    ]
    lines = layer_table(rows, total_parameters=1_082).splitlines()
    assert lines[2].split() == ["conv1.weight", "16x3x3x3", "-", "1.0000", "432", "432", "0.44"]
    assert lines[3].split() == ["fc.weight", "10x64", "unstructured", "0.5000", "320", "640", "0.00"]
    assert lines[-2].split() == ["parameters", "762", "of", "1,082", "(70.43%)"]
    assert lines[-1].split() == ["FLOPs", "per", "image", "885,376", "of", "886,016", "(99.93%)"]


def test_table_fits_100_columns() -> None:
    name = "stages.3.blocks.11.attention." + "a_long_name." * 8 + "weight"
    text = layer_table([LayerRow(name, (2048, 512, 3, 3), 0.1, "shuffled_block", 943_718, 10**10)], 10**8)
    assert max(map(len, text.splitlines())) == 100
    assert "stages.3" in text and "name.weight" in text and name not in text
