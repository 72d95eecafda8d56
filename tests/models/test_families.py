"""The reference papers' networks: sizes, shapes, names."""

import pytest
import timm
import torch

from dist_sparse.models import FAMILIES
from dist_sparse.models.__main__ import table

NAMES = [name for family in FAMILIES for name in family.default_cfgs]

# 10 classes, 3 channels. In millions the papers give: ResNet-20/32/56 0.27, 0.46, 0.85 (He et al., table 6; its shortcuts have
# no weights); WRN-16-8 11.0, WRN-22-8 17.2, WRN-16-10 17.1 (Wide Residual Networks); AlexNet-S 5.1, -B 8.5, VGG-D 15.2,
# VGG-like 15.0 (SNIP). ResNet-18/34/50 are the counts of kuangliu/pytorch-cifar; GraNet's have no bias in the classifier.
PARAMETERS = {
    "cifar_resnet20": 272_474,
    "cifar_resnet32": 466_906,
    "cifar_resnet56": 855_770,
    "cifar_resnet18": 11_173_962,
    "cifar_resnet34": 21_282_122,
    "cifar_resnet50": 23_520_842,
    "cifar_vgg_c": 11_323_466,
    "cifar_vgg_d": 15_255_626,
    "cifar_vgg_like": 14_991_946,
    "cifar_vgg19": 20_035_018,
    "cifar_alexnet_s": 5_077_066,
    "cifar_alexnet_b": 8_501_322,
    "cifar_wrn_22_2": 1_079_642,
    "cifar_wrn_28_2": 1_467_610,
    "cifar_wrn_22_8": 17_158_106,
    "cifar_wrn_16_8": 10_961_370,
    "cifar_wrn_16_10": 17_116_634,
    # 1 channel of 28x28; SNIP: 267K and 431K
    "lenet_300_100": 266_610,
    "lenet_5": 431_080,
    "cnn_4": 61_050,
}


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def meta(name: str, **kwargs: object) -> torch.nn.Module:
    """A network without its weights, which is all that shapes and counts need."""
    with torch.device("meta"):
        return timm.create_model(name, **kwargs)


def test_timm_lists_every_family() -> None:
    assert {name for prefix in ("cifar_*", "lenet_*", "cnn_4") for name in timm.list_models(prefix)} == set(NAMES)
    assert set(NAMES) == PARAMETERS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    assert parameters(meta(name)) == PARAMETERS[name]


def test_the_docstrings_give_the_same_parameters() -> None:
    for family in FAMILIES:
        for name in family.default_cfgs:
            assert f"{PARAMETERS[name]:,}" in (family.__doc__ or ""), name


def test_wide_resnet32_is_that_of_mest() -> None:
    """MEST sparsifies the 30 3x3 convolutions of the blocks: 1,843,200 of 1,860,522 parameters."""
    model = timm.create_model("cifar_resnet32", width=2)
    blocks = [p.numel() for name, p in model.named_parameters() if name.startswith("layer") and p.shape[2:] == (3, 3)]
    assert (parameters(model), len(blocks), sum(blocks)) == (1_860_522, 30, 1_843_200)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64)])
def test_images_of_all_sizes(name: str, channels: int, size: int) -> None:
    if name == "lenet_5" and size < 16:
        pytest.skip("its unpadded 5x5 convolutions leave nothing of such small images")
    told = {"img_size": size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model = meta(name, num_classes=7, in_chans=channels, **told).eval()
    with torch.no_grad():
        assert model(torch.empty(2, channels, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_wrn_22_2", "cifar_alexnet_s", "lenet_300_100", "lenet_5", "cnn_4"])
def test_a_training_step_reaches_every_parameter(name: str) -> None:
    model = timm.create_model(name, in_chans=1)
    side = 28 if name.startswith("lenet") else 8
    model(torch.randn(2, 1, side, side)).logsumexp(1).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", NAMES)
def test_timm_interface(name: str) -> None:
    model = meta(name)
    image = torch.empty(2, *model.pretrained_cfg["input_size"], device="meta")
    assert model.get_classifier().out_features == 10
    first = dict(model.named_modules())[model.pretrained_cfg["first_conv"]]
    assert isinstance(first, torch.nn.Linear if name == "lenet_300_100" else torch.nn.Conv2d)
    features = model.eval().forward_features(image)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    with torch.device("meta"):
        model.reset_classifier(4)
    assert model(image).shape == (2, 4)


@pytest.mark.parametrize("name", NAMES)
def test_layers_stand_in_the_order_of_the_computation(name: str) -> None:
    """ "first" and "last" in `sparsity.keep_dense` rely on it."""
    layers = [key for key, module in meta(name).named_modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert layers[0] in ("conv1", "features.0", "hidden.0") and layers[-1] == "fc"


def test_zero_init_last() -> None:
    last = [m.bn2.weight for m in timm.create_model("cifar_resnet20", zero_init_last=True).modules() if hasattr(m, "bn2")]
    kept = [m.bn2.weight for m in timm.create_model("cifar_resnet20").modules() if hasattr(m, "bn2")]
    assert len(last) == 9 and not torch.stack(last[:3]).any() and torch.stack(kept[:3]).eq(1).all()


@pytest.mark.parametrize(("max_pool", "reductions"), [(False, [1, 1, 2, 4, 8]), (True, [1, 2, 4, 8, 16])])
def test_max_pool_halves_the_image_after_the_stem(max_pool: bool, reductions: list[int]) -> None:
    features = meta("cifar_resnet18", max_pool=max_pool, features_only=True)
    sides = [map_.shape[-1] for map_ in features(torch.empty(2, 3, 64, 64, device="meta"))]
    assert features.feature_info.reduction() == [64 // side for side in sides] == reductions


def test_table_names_them_all() -> None:
    lines = table().splitlines()
    assert [line.split()[0] for line in lines[1 : len(NAMES) + 1]] == NAMES
    assert lines[1].split()[1:3] == ["272,474", "3x32x32"] and all(len(line) <= 100 for line in lines)


def test_a_variant_s_number_of_blocks_is_a_default() -> None:
    model = timm.create_model("cifar_resnet20", blocks=1)
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3)] == [1, 1, 1]
