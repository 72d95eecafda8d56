"""A network without its memory, to learn shapes from."""

import copy

import torch
from torch import nn


def meta_copy(model: nn.Module) -> nn.Module:
    """The network on the meta device in evaluation mode: a forward computes shapes only. ``model`` is left as it was."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    memo = {id(tensor): torch.empty_like(tensor, device="meta", requires_grad=False) for _, tensor in tensors}
    return copy.deepcopy(model, memo).eval()
