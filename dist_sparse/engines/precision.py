"""Arithmetic of the forward pass: full, double, or mixed precision."""

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How a model and its images are held on the device.

    Mixed precision keeps weights in fp32 and casts within the forward pass.
    """

    name: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    device: torch.device
    channels_last: bool = False
    flattens_weights: bool = False
    """The engine takes weights for flat vectors, which needs their default memory format: only images are channels_last."""

    @property
    def scaled(self) -> bool:
        """The loss must be scaled, because small gradients vanish in fp16."""
        return self.name == "fp16"

    def place_model(self, model: nn.Module) -> nn.Module:
        """Move a model, in place, to the device, dtype and memory format."""
        model = model.to(device=self.device, dtype=torch.float64 if self.name == "fp64" else torch.float32)
        return model.to(memory_format=torch.channels_last) if self.channels_last and not self.flattens_weights else model

    def place_images(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in the model's dtype and memory format."""
        images = images.to(torch.float64) if self.name == "fp64" else images
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The context of a forward pass."""
        dtype = _AUTOCAST.get(self.name)
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
