"""VGG-C, VGG-D, VGG-like and VGG-19 for small images.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015 (arXiv 1409.1556): five
stages of 3x3 convolutions with 64, 128, 256, 512 and 512 channels. C, D and "like" have 2, 2, 3, 3, 3 convolutions, max pooling
after each stage and hidden linear layers of 512 units, as in SNIP (ICLR 2019) and sparse momentum's reference code
(arXiv 1907.04840). VGG-19 has 2, 2, 4, 4, 4 and one linear layer after average pooling, as in GraNet (NeurIPS 2021) and MEST.

Parameters with 10 classes and 3 channels:

    ==============  ==========  ===========================================================================
    cifar_vgg_c     11,323,466  the last convolution of stages 3-5 is 1x1; two hidden layers, the first of 2048
    cifar_vgg_d     15,255,626  two hidden layers
    cifar_vgg_like  14,991,946  one hidden layer
    cifar_vgg19     20,035,018  convolutions without bias, no hidden layer
    ==============  ==========  ===========================================================================

Sparse momentum's 1x1 convolutions are padded by 1, so VGG-C ends in 2x2 maps and its first linear layer takes 2048 features
(SNIP's takes 512, whence its 10.5 million). Biases before batch norm are kept where the reference has them.

Deviations: logits instead of log-softmax; Kaiming normal convolution weights by fan-out; adaptive average pooling at the end,
and max pooling that rounds sizes up except in VGG-C. Both do nothing to the reference's 32x32 images and let others, such as
8x8 and 28x28, through. VGG-C, -D and -like need at least two images a batch in training.
"""

from collections.abc import Sequence
from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dist_sparse.models._common import SmallImageNet, init_weights, small_image_cfg

_CHANNELS = (64, 128, 256, 512, 512)


class CifarVGG(SmallImageNet):
    """Five stages, ``hidden_layers`` linear layers of 512 units with ReLU and batch norm, and a linear classifier.

    Without hidden layers (VGG-19) the convolutions have no bias and the last stage ends in average instead of max pooling.

    Args:
        convolutions: convolutions of each stage.
        pointwise: the last convolution of stages 3-5 is 1x1, padded by 1 (VGG-C).
    """

    def __init__(
        self, convolutions: Sequence[int], hidden_layers: int, pointwise: bool = False, num_classes: int = 10, in_chans: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (count, outputs) in enumerate(zip(convolutions, _CHANNELS, strict=True)):
            for index in range(count):
                kernel = 1 if pointwise and stage >= 2 and index == count - 1 else 3
                layers.append(nn.Conv2d(in_chans, outputs, kernel, padding=1, bias=hidden_layers > 0))
                layers += nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
                in_chans = outputs
            layers.append(nn.MaxPool2d(2, ceil_mode=not pointwise))
        self.features = nn.Sequential(*(layers if hidden_layers else layers[:-1]))
        pool_size = 2 if pointwise else 1
        self.add_head(512, num_classes, _hidden(512 * pool_size**2, hidden_layers), pool_size)
        init_weights(self, linear_std=None if hidden_layers else 0.01)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)


def _hidden(inputs: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(count):
        layers += nn.Linear(512 if index else inputs, 512), nn.ReLU(inplace=True), nn.BatchNorm1d(512)
    return nn.Sequential(*layers)


_CFG = small_image_cfg(first_conv="features.0")
_NAMES = ("cifar_vgg_c", "cifar_vgg_d", "cifar_vgg_like", "cifar_vgg19")
default_cfgs = generate_default_cfgs(dict.fromkeys(_NAMES, _CFG))


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarVGG:
    return cast(CifarVGG, build_model_with_cfg(CifarVGG, variant, pretrained, **kwargs))


@register_model
def cifar_vgg_c(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """SNIP (ICLR 2019), sparse momentum (arXiv 1907.04840)"""
    return _create("cifar_vgg_c", pretrained, convolutions=(2, 2, 3, 3, 3), hidden_layers=2, pointwise=True, **kwargs)


@register_model
def cifar_vgg_d(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """SNIP (ICLR 2019), sparse momentum (arXiv 1907.04840)"""
    return _create("cifar_vgg_d", pretrained, convolutions=(2, 2, 3, 3, 3), hidden_layers=2, **kwargs)


@register_model
def cifar_vgg_like(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """SNIP (ICLR 2019), sparse momentum (arXiv 1907.04840)"""
    return _create("cifar_vgg_like", pretrained, convolutions=(2, 2, 3, 3, 3), hidden_layers=1, **kwargs)


@register_model
def cifar_vgg19(pretrained: bool = False, **kwargs: Any) -> CifarVGG:
    """GraNet (NeurIPS 2021), MEST (NeurIPS 2021)"""
    return _create("cifar_vgg19", pretrained, convolutions=(2, 2, 4, 4, 4), hidden_layers=0, **kwargs)
