"""LeNet-300-100, LeNet-5 and a small convolutional network with batch norm, for images of 28x28 in grey.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of the IEEE 1998.
LeNet-300-100 has two hidden linear layers; LeNet-5 is Caffe's, with 20 and 50 convolutions of 5x5 and max pooling, and a hidden
layer of 500, with ReLU after each. These are the networks of SNIP (Lee et al., ICLR 2019, arXiv 1810.02340), and LeNet-300-100
that of the lottery ticket hypothesis (Frankle and Carbin, ICLR 2019, arXiv 1803.03635) and of RigL (Evci et al., ICML 2020,
arXiv 1911.11134), too. ``cnn_4`` is our own: four 3x3 convolutions of 16, 32, 64 and 64 channels with batch norm, the first
three strided.

Parameters with 10 classes and 1 channel, 28x28: lenet_300_100 266,610; lenet_5 431,080; cnn_4 61,050.

The weights of the LeNets are Gaussian after Glorot, as in these papers, and cnn_4's Kaiming normal by fan-out. Deviation:
adaptive pooling in front of LeNet-5's hidden layer does nothing to 28x28 and lets others from 16x16 on through. LeNet-300-100
is built for one size of images.
"""

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dist_sparse.models._common import SmallImageNet, init_weights, small_image_cfg


class LeNet300100(SmallImageNet):
    """Hidden linear layers of 300 and 100 units with ReLU over all pixels of an image, and a linear classifier."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1, img_size: int | tuple[int, int] = 28) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        hidden = nn.Sequential(nn.Linear(in_chans * height * width, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU())
        self.add_head(100, num_classes, hidden)
        self.global_pool = nn.Identity()
        _init_glorot(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return x


class LeNet5(SmallImageNet):
    """Two 5x5 convolutions with ReLU and max pooling, a hidden layer of 500 units with ReLU and a linear classifier."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outputs in (20, 50):
            layers += [nn.Conv2d(in_chans, outputs, 5), nn.ReLU(), nn.MaxPool2d(2)]
            in_chans = outputs
        self.features = nn.Sequential(*layers)
        self.add_head(500, num_classes, nn.Sequential(nn.Linear(50 * 4 * 4, 500), nn.ReLU()), pool_size=4)
        _init_glorot(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)


class CNN4(SmallImageNet):
    """Four 3x3 convolutions with batch norm and ReLU, average pooling and a linear classifier."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outputs, stride in ((16, 2), (32, 2), (64, 2), (64, 1)):
            layers += [nn.Conv2d(in_chans, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            in_chans = outputs
        self.features = nn.Sequential(*layers)
        self.add_head(64, num_classes)
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)


def _init_glorot(model: nn.Module) -> None:
    """Gaussian weights of variance 2 / (fan in + fan out), and biases of 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(module.weight)
            nn.init.zeros_(cast(Tensor, module.bias))


_CFG = small_image_cfg(first_conv="features.0") | {"input_size": (1, 28, 28), "mean": (0.2860,), "std": (0.3530,)}
default_cfgs = generate_default_cfgs(
    {
        "lenet_300_100": _CFG | {"first_conv": "hidden.0", "fixed_input_size": True},
        "lenet_5": _CFG,
        "cnn_4": _CFG,
    }
)


def _create(family: type[nn.Module], variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return cast(nn.Module, build_model_with_cfg(family, variant, pretrained, **kwargs))


@register_model
def lenet_300_100(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SNIP, lottery ticket (ICLR 2019), RigL (ICML 2020)"""
    return _create(LeNet300100, "lenet_300_100", pretrained, **kwargs)


@register_model
def lenet_5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """SNIP (ICLR 2019)"""
    return _create(LeNet5, "lenet_5", pretrained, **kwargs)


@register_model
def cnn_4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """our own"""
    return _create(CNN4, "cnn_4", pretrained, **kwargs)
