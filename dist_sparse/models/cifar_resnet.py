"""ResNet-20, -32 and -56 for small images.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385), section 4.2: a 3x3 stem and three
stages of basic blocks with 16, 32 and 64 channels, the last two stages halving the image.

Parameters with 10 classes and 3 channels:

    =================  ======  =========
    model              width   parameters
    =================  ======  =========
    cifar_resnet20     1         272,474
    cifar_resnet32     1         466,906
    cifar_resnet32     2       1,860,522   MEST (NeurIPS 2021) and "uwresnet32" of AST (NeurIPS 2022)
    cifar_resnet56     1         855,770
    =================  ======  =========

Deviations from He et al.: the shortcut of a block that changes shape is a 1x1 convolution with batch norm (their option B, and
MEST's code) instead of padding with zeros (option A); 2,752 parameters more at width 1. Initial weights are MEST's: Kaiming
normal by fan-out, classifier N(0, 0.01), every batch norm 1 and 0 (``zero_init_last`` sets the last one of a block to 0).
"""

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from dist_sparse.models._common import SmallImageNet, init_weights, small_image_cfg


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [B, inputs, H, W] -> [B, outputs, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.act = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act(residual + shortcut)


class CifarResNet(SmallImageNet):
    """Stem, three stages of ``blocks`` basic blocks, global average pooling, linear classifier.

    ``6 * blocks + 2`` layers have weights. ``width`` multiplies the 16, 32 and 64 channels of the stages (whole ones).
    """

    def __init__(
        self, blocks: int, num_classes: int = 10, in_chans: int = 3, width: float = 1, zero_init_last: bool = False
    ) -> None:
        super().__init__()
        channels = [round(base * width) for base in (16, 32, 64)]
        if min(channels) < 1:
            raise ValueError(f"width {width} leaves no channels")
        if blocks < 1:
            raise ValueError(f"blocks {blocks}: a stage has at least one")
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(channels[0], channels[0], blocks, stride=1)
        self.layer2 = _stage(channels[0], channels[1], blocks, stride=2)
        self.layer3 = _stage(channels[1], channels[2], blocks, stride=2)
        self.add_head(channels[2], num_classes)
        init_weights(self, linear_std=0.01)
        if zero_init_last:
            for block in self.modules():
                if isinstance(block, BasicBlock):
                    nn.init.zeros_(block.bn2.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


_CFG = small_image_cfg(first_conv="conv1")
default_cfgs = generate_default_cfgs({"cifar_resnet20": _CFG, "cifar_resnet32": _CFG, "cifar_resnet56": _CFG})


def _create(variant: str, pretrained: bool, blocks: int, kwargs: dict[str, Any]) -> CifarResNet:
    """A variant's number of blocks is a default, as in timm: ``kwargs`` may name another."""
    return cast(CifarResNet, build_model_with_cfg(CifarResNet, variant, pretrained, **{"blocks": blocks, **kwargs}))


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """He et al. (CVPR 2016), MEST (NeurIPS 2021)"""
    return _create("cifar_resnet20", pretrained, 3, kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """He et al. (CVPR 2016); MEST, AST with width 2"""
    return _create("cifar_resnet32", pretrained, 5, kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """He et al. (CVPR 2016)"""
    return _create("cifar_resnet56", pretrained, 9, kwargs)
