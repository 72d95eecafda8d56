"""A network without its memory, to learn shapes from."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def meta_copy(model: nn.Module) -> nn.Module:
    """The network on the meta device in evaluation mode: a forward computes shapes only. ``model`` is left as it was."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    memo = {id(tensor): torch.empty_like(tensor, device="meta", requires_grad=False) for _, tensor in tensors}
    return copy.deepcopy(model, memo).eval()


_KEEP_THE_SHAPE = {F.batch_norm, F.group_norm, F.layer_norm, F.gelu, F.softmax}


class ShapesOnly(TorchFunctionMode):
    """Leaves out what keeps the shape: on the meta device torch spends most of a forward on norms and on adding biases."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KEEP_THE_SHAPE:
            return _input(*args, **(kwargs or {}))
        if func is F.linear:
            return _without_bias(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _input(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _without_bias(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(input, weight)
