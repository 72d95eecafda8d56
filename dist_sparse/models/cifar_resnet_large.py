"""ResNet-18, -34 and -50 for small images: timm's networks with a 3x3 stem of stride 1 and without its max pooling.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385), in the form that the CIFAR experiments
of GraNet (NeurIPS 2021), In-Time Over-Parameterization (ICML 2021) and AST (NeurIPS 2022) use: four stages of 64, 128, 256 and
512 channels (four times that after ResNet-50's bottlenecks, whose stride is in the 3x3 convolution). ``max_pool: true`` keeps
timm's max pooling, which is the form for Tiny-ImageNet's 64x64 pixels in the shuffled blocks' repository.

Parameters with 10 classes and 3 channels: cifar_resnet18 11,173,962; cifar_resnet34 21,282,122; cifar_resnet50 23,520,842.

Deviations: logits instead of GraNet's log-softmax, and a bias in the classifier, where GraNet has none; timm's initial
weights (Kaiming normal by fan-out), with the last batch norm of a block at 1 as in the reference code, not at timm's 0
(``zero_init_last: true`` sets it to 0). The state dict's keys are timm's.
"""

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from dist_sparse.models._common import small_image_cfg


class LargeCifarResNet(ResNet):
    """timm's ResNet whose first stage sees the image at full size, with ``max_pool`` at half; ``kwargs`` are timm's."""

    def __init__(self, in_chans: int = 3, zero_init_last: bool = False, max_pool: bool = False, **kwargs: Any) -> None:
        super().__init__(in_chans=in_chans, zero_init_last=zero_init_last, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if not max_pool:
            self.maxpool = nn.Identity()
        for stage in self.feature_info[:1]:
            stage["reduction"] = 1  # of the stem
        for stage in self.feature_info[1:]:
            stage["reduction"] = int(stage["reduction"]) // (2 if max_pool else 4)


_CFG = small_image_cfg(first_conv="conv1")
default_cfgs = generate_default_cfgs({"cifar_resnet18": _CFG, "cifar_resnet34": _CFG, "cifar_resnet50": _CFG})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> LargeCifarResNet:
    return cast(LargeCifarResNet, build_model_with_cfg(LargeCifarResNet, variant, pretrained, **kwargs))


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs: Any) -> LargeCifarResNet:
    """GraNet (NeurIPS 2021), AST (NeurIPS 2022)"""
    return _create("cifar_resnet18", pretrained, block=BasicBlock, layers=(2, 2, 2, 2), **kwargs)


@register_model
def cifar_resnet34(pretrained: bool = False, **kwargs: Any) -> LargeCifarResNet:
    """GraNet (NeurIPS 2021)"""
    return _create("cifar_resnet34", pretrained, block=BasicBlock, layers=(3, 4, 6, 3), **kwargs)


@register_model
def cifar_resnet50(pretrained: bool = False, **kwargs: Any) -> LargeCifarResNet:
    """GraNet (NeurIPS 2021), ITOP (ICML 2021)"""
    return _create("cifar_resnet50", pretrained, block=Bottleneck, layers=(3, 4, 6, 3), **kwargs)
