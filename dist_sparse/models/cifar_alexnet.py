"""AlexNet-S and AlexNet-B for small images.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012, as reduced for CIFAR by SNIP
(Lee et al., ICLR 2019, arXiv 1810.02340) and written in sparse momentum's reference code (arXiv 1907.04840): five strided
convolutions of 96, 256, 384, 384 and 256 channels without max pooling, and two hidden linear layers of 1024 (S) or 2048 (B)
units.

Parameters with 10 classes and 3 channels: cifar_alexnet_s 5,077,066; cifar_alexnet_b 8,501,322.

Deviations: logits instead of log-softmax; Kaiming normal weights by fan-out; average pooling to 1x1, which does nothing to the
reference's 32x32 images and lets others through. Its biases before batch norm are kept. Training needs at least two
images a batch.
"""

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dist_sparse.models._common import SmallImageNet, init_weights, small_image_cfg


class CifarAlexNet(SmallImageNet):
    """Five convolutions and two hidden layers of ``width`` units, each with batch norm and ReLU, and a linear classifier."""

    def __init__(self, width: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_conv(in_chans, 96, kernel=11, padding=2),
            *_conv(96, 256, kernel=5, padding=2),
            *_conv(256, 384, kernel=3, padding=1),
            *_conv(384, 384, kernel=3, padding=1),
            *_conv(384, 256, kernel=3, padding=1),
        )
        self.add_head(width, num_classes, hidden=nn.Sequential(*_linear(256, width), *_linear(width, width)))
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)


def _conv(inputs: int, outputs: int, kernel: int, padding: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel, stride=2, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)


def _linear(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)


_CFG = small_image_cfg(first_conv="features.0")
default_cfgs = generate_default_cfgs({"cifar_alexnet_s": _CFG, "cifar_alexnet_b": _CFG})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarAlexNet:
    return cast(CifarAlexNet, build_model_with_cfg(CifarAlexNet, variant, pretrained, **kwargs))


@register_model
def cifar_alexnet_s(pretrained: bool = False, **kwargs: Any) -> CifarAlexNet:
    """SNIP (ICLR 2019), sparse momentum (arXiv 1907.04840)"""
    return _create("cifar_alexnet_s", pretrained, width=1024, **kwargs)


@register_model
def cifar_alexnet_b(pretrained: bool = False, **kwargs: Any) -> CifarAlexNet:
    """SNIP (ICLR 2019), sparse momentum (arXiv 1907.04840)"""
    return _create("cifar_alexnet_b", pretrained, width=2048, **kwargs)
