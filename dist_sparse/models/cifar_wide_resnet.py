"""Wide residual networks WRN-22-2, -28-2, -22-8, -16-8 and -16-10.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv 1605.07146): WRN-depth-k has a 3x3 stem of 16 channels and
three stages of (depth - 4) / 6 pre-activation blocks with 16k, 32k and 64k channels. Sizes, dropout and shortcuts are those of
sparse momentum's reference code (Dettmers and Zettlemoyer, arXiv 1907.04840); WRN-22-2 is RigL's on CIFAR-10 (ICML 2020,
arXiv 1911.11134).

Parameters with 10 classes and 3 channels:

    ===============  ==========
    cifar_wrn_22_2    1,079,642
    cifar_wrn_28_2    1,467,610
    cifar_wrn_22_8   17,158,106
    cifar_wrn_16_8   10,961,370
    cifar_wrn_16_10  17,116,634
    ===============  ==========

Deviation: logits instead of log-softmax.
"""

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dist_sparse.models._common import SmallImageNet, init_weights, small_image_cfg


class PreActBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, BN, ReLU, dropout, 3x3 convolution: [B, inputs, H, W] -> [B, outputs, H/stride, W/stride].

    The shortcut of a block that changes the number of channels is a 1x1 convolution of the first ReLU's output.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.drop = nn.Dropout(drop_rate)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.downsample = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.act(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        x = self.act(self.bn2(self.conv1(active)))
        return self.conv2(self.drop(x)) + shortcut


class WideResNet(SmallImageNet):
    """Stem, three stages of (depth - 4) / 6 blocks, BN, ReLU, global average pooling, linear classifier.

    ``drop_rate`` is the dropout inside the blocks; 0.3 in the reference code.
    """

    def __init__(self, depth: int, widen: int, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.3) -> None:
        super().__init__()
        assert (depth - 4) % 6 == 0, depth
        blocks, channels = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        self.layer1 = _stage(channels[0], channels[1], blocks, 1, drop_rate)
        self.layer2 = _stage(channels[1], channels[2], blocks, 2, drop_rate)
        self.layer3 = _stage(channels[2], channels[3], blocks, 2, drop_rate)
        self.norm = nn.BatchNorm2d(channels[3])
        self.act = nn.ReLU(inplace=True)
        self.add_head(channels[3], num_classes)
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.act(self.norm(x))


def _stage(inputs: int, outputs: int, blocks: int, stride: int, drop_rate: float) -> nn.Sequential:
    first = PreActBlock(inputs, outputs, stride, drop_rate)
    return nn.Sequential(first, *(PreActBlock(outputs, outputs, 1, drop_rate) for _ in range(blocks - 1)))


_CFG = small_image_cfg(first_conv="conv1")
_NAMES = ("cifar_wrn_22_2", "cifar_wrn_28_2", "cifar_wrn_22_8", "cifar_wrn_16_8", "cifar_wrn_16_10")
default_cfgs = generate_default_cfgs(dict.fromkeys(_NAMES, _CFG))


def _create(variant: str, pretrained: bool, **kwargs: Any) -> WideResNet:
    return cast(WideResNet, build_model_with_cfg(WideResNet, variant, pretrained, **kwargs))


@register_model
def cifar_wrn_22_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """RigL (ICML 2020)"""
    return _create("cifar_wrn_22_2", pretrained, depth=22, widen=2, **kwargs)


@register_model
def cifar_wrn_28_2(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """Sparse momentum (arXiv 1907.04840)"""
    return _create("cifar_wrn_28_2", pretrained, depth=28, widen=2, **kwargs)


@register_model
def cifar_wrn_22_8(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """SNIP (ICLR 2019), sparse momentum"""
    return _create("cifar_wrn_22_8", pretrained, depth=22, widen=8, **kwargs)


@register_model
def cifar_wrn_16_8(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """SNIP (ICLR 2019), sparse momentum"""
    return _create("cifar_wrn_16_8", pretrained, depth=16, widen=8, **kwargs)


@register_model
def cifar_wrn_16_10(pretrained: bool = False, **kwargs: Any) -> WideResNet:
    """SNIP (ICLR 2019), sparse momentum"""
    return _create("cifar_wrn_16_10", pretrained, depth=16, widen=10, **kwargs)
