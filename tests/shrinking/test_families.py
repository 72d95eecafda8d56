"""Outputs of shrunk networks equal the masked networks', whatever family they are of."""

import pytest
import torch

from dist_sparse.shrinking import shrink
from dist_sparse.sparsity.structures import Channel, Filter, Structure
from tests.shrinking.networks import images, masked, network, random_masks

# The share of parameters that is left where half of the filters, or half of the input channels, of every layer are masked.
# Residual sums keep most of their channels: each is used by some block.
CASES = {
    "resnet18": (0.45, 0.49),
    "resnet50": (0.43, 0.44),
    "cifar_resnet20": (0.52, 0.51),
    "cifar_vgg_c": (0.26, 0.29),
    "cifar_vgg_d": (0.26, 0.26),
    "cifar_wrn_22_2": (0.50, 0.50),
    "mobilenetv2_100": (0.32, 0.45),
    "mobilenetv3_small_100": (0.42, 0.51),
    "efficientnet_b0": (0.59, 0.61),
    "convnext_atto": (0.56, 0.56),
    "deit_tiny_patch16_224": (0.70, 0.70),
    "densenet121": (0.31, 0.57),  # concatenation
    "regnetx_002": (0.91, 0.69),  # convolutions of several groups
}
KWARGS = {"deit_tiny_patch16_224": {"img_size": 32, "depth": 4}, "densenet121": {"block_config": (3, 3)}}


@pytest.mark.parametrize("structure", [Filter(), Channel()], ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_outputs_are_equal(name: str, structure: Structure) -> None:
    model = network(name, **KWARGS.get(name, {}))
    masks = random_masks(model, structure)
    shrunk = shrink(model, masks, images(32))
    share = shrunk.report.parameters_after / shrunk.report.parameters_before
    assert share <= CASES[name][isinstance(structure, Channel)]
    assert sum(parameter.numel() for parameter in shrunk.model.parameters()) == shrunk.report.parameters_after

    original = masked(model, masks)
    with torch.no_grad():
        for side in (32,) if name.startswith("deit") else (32, 49):
            batch = images(side, batch=3)
            torch.testing.assert_close(shrunk.model(batch), original(batch), rtol=1e-12, atol=1e-12)
        single, expected = shrunk.model.float()(batch.float()), original.float()(batch.float())
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=1e-5)


def test_a_network_in_single_precision_is_shrunk_as_well() -> None:
    model = network("cifar_resnet20").float()
    masks = random_masks(model, Filter())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shrunk = shrink(model, masks, images(32).float())
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())  # it is left as it was
    assert {tensor.dtype for tensor in shrunk.model.parameters()} == {torch.float32}
    with torch.no_grad():
        batch = images(32).float()
        torch.testing.assert_close(shrunk.model(batch), masked(model, masks)(batch), rtol=1e-5, atol=1e-5)
