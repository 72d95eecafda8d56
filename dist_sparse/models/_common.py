"""What the families share: timm's interface, timm's description of a network for small images, and the initial weights."""

from typing import Any

import torch
from torch import Tensor, nn


class SmallImageNet(nn.Module):
    """Features, adaptive average pooling, an optional hidden head and a linear classifier, with timm's method names.

    A subclass builds its features, calls :meth:`add_head` last (so that the order of the layers is that of the computation) and
    defines ``forward_features``: [B, in_chans, H, W] -> [B, C, h, w]. The network's output is logits, [B, num_classes].
    """

    def add_head(self, num_features: int, num_classes: int, hidden: nn.Module | None = None, pool_size: int = 1) -> None:
        """``hidden`` maps the pooled and flattened features to [B, num_features]; without it there is no hidden layer."""
        self.num_features = num_features
        self.global_pool = nn.AdaptiveAvgPool2d(pool_size)
        self.hidden = nn.Identity() if hidden is None else hidden
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier; with 0 classes the network gives its features."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """The last feature maps [B, C, H, W]; every family has its own."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.hidden(torch.flatten(self.global_pool(x), 1))
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def small_image_cfg(first_conv: str) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` of a network for 32x32 images (CIFAR-10's mean and standard deviation, no weights to fetch)."""
    return {
        "url": "",
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "classifier": "fc",
        "first_conv": first_conv,
    }


def init_weights(model: nn.Module, linear_std: float | None = None) -> None:
    """Kaiming normal by fan-out for convolutions, 1 and 0 for norms, 0 for biases.

    Linear weights are N(0, linear_std), or PyTorch's own uniform where that is None.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
        if isinstance(module, nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
