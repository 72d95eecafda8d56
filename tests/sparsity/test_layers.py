"""Which parameters get a mask."""

import pytest
import timm
from torch import nn

from dist_sparse.sparsity.layers import sparse_layers, weight_layers


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv1d(4, 4, 1)), nn.Linear(4, 2)
    )


def test_convolutions_and_linear_layers_in_order(model: nn.Module) -> None:
    layers = weight_layers(model)
    assert list(layers) == ["0.weight", "2.0.weight", "2.1.weight", "3.weight"]
    assert all(layers[name] is model.get_parameter(name) for name in layers)


def test_a_bare_layer() -> None:
    assert list(weight_layers(nn.Linear(2, 2))) == ["weight"]


def test_names_are_those_of_the_state_dict() -> None:
    model = timm.create_model("test_resnet")
    assert set(weight_layers(model)) <= set(model.state_dict())


def test_a_shared_weight_counts_once(model: nn.Module) -> None:
    tied = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})
    tied["decoder"].weight = tied["encoder"].weight
    assert list(weight_layers(tied)) == ["encoder.weight"]


@pytest.mark.parametrize(
    ("keep_dense", "sparse"),
    [
        ([], ["0.weight", "2.0.weight", "2.1.weight", "3.weight"]),
        (["first"], ["2.0.weight", "2.1.weight", "3.weight"]),
        (["last"], ["0.weight", "2.0.weight", "2.1.weight"]),
        (["first", "last"], ["2.0.weight", "2.1.weight"]),
        (["2.*"], ["0.weight", "3.weight"]),
        (["3.weight", "first"], ["2.0.weight", "2.1.weight"]),
    ],
)
def test_keep_dense(model: nn.Module, keep_dense: list[str], sparse: list[str]) -> None:
    assert list(sparse_layers(model, keep_dense)) == sparse


def test_a_pattern_that_fits_nothing_is_named(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"sparsity\.keep_dense='clasifier\*' fits no layer; the layers are 0\.weight, 2\.0"):
        sparse_layers(model, ["first", "clasifier*"])


def test_no_layer_left(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="leaves no layer"):
        sparse_layers(model, ["*"])
