"""`build_model`: weights from the seed alone, timm's names untouched, one line for each mistake."""

from typing import Any

import pytest
import timm
import torch

from dist_sparse.config.schema import ModelConfig
from dist_sparse.errors import UserError
from dist_sparse.models import build_model


def build(
    name: str = "cifar_resnet20", seed: int = 0, image_size: int = 32, pretrained: bool = False, **kwargs: Any
) -> torch.nn.Module:
    config = ModelConfig(name=name, pretrained=pretrained, kwargs=kwargs)
    return build_model(config, classes=10, channels=3, image_size=image_size, seed=seed)


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in model.state_dict().values()])


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first, state = flat(build()), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(flat(build()), first)
    assert not torch.equal(flat(build(seed=1)), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the global generator moved"


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_a_timm_model_keeps_its_keys(name: str) -> None:
    model = build(name)
    plain = timm.create_model(name, num_classes=10)
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny_patch16_224", 32), ("swin_tiny_patch4_window7_224", 64), ("resnet18", 8)]
)
def test_the_image_size_reaches_the_models_that_need_it(name: str, size: int) -> None:
    model = build(name, image_size=size).eval()
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)


def test_ready_to_train() -> None:
    model = build()
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(int(buffer) == 0 for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar_resnet21"}, "model.name='cifar_resnet21' .*did you mean .*cifar_resnet20"),
        ({"name": "qqqq"}, "model.name='qqqq' is unknown; any of .*python -m dist_sparse.models"),
        ({"name": "resnet18.no_such_weights"}, "model.name: .*no_such_weights"),
        ({"wdth": 2}, "model.kwargs: .*wdth"),
        ({"width": 0}, "model.kwargs: .*no channels"),
        ({"blocks": 0}, "model.kwargs: .*at least one"),
        ({"num_classes": 3}, "model.kwargs: num_classes"),
        ({"name": "resnet18", "features_only": True}, "model.kwargs: .*logit"),
        ({"pretrained": True}, "model.pretrained: no weights for cifar_resnet20"),
        ({"name": "vgg11", "image_size": 8}, "model.name: vgg11 cannot take images of 3x8x8"),
        ({"name": "vit_tiny_patch16_224", "image_size": 8}, "model.name: .*images of 3x8x8"),
        ({"name": "vit_tiny_patch16_224", "img_size": 48}, "model.name: .*images of 3x32x32"),
    ],
)
def test_mistakes_get_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(**arguments)
    assert "\n" not in str(caught.value)
