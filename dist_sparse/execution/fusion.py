"""Which batch norms of a network have a ReLU behind them that nothing comes between; found by watching a forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class _Uses(TorchFunctionMode):
    """Counts the functions that get a tensor, but for those that only look at its properties."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":
            for each in tree_leaves((args, kwargs)):
                if isinstance(each, Tensor):
                    self.of[id(each)] = self.of.get(id(each), 0) + 1
        return func(*args, **(kwargs or {}))


def norms_before_relu(model: nn.Module, images: Tensor) -> set[str]:
    """Names of the batch norms whose output, in a forward pass of ``images``, a ReLU module is the first and the only to see.

    A ReLU that works in place may be the first only: whoever comes after it sees what it has made.
    """
    outputs: dict[str, Tensor] = {}  # kept, so that no other tensor takes an id of theirs later
    most_uses: dict[int, float] = {}
    uses, handles = _Uses(), []

    def after_norm(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, out: Any) -> None:
            outputs[name] = out
            uses.of[id(out)] = 0  # the id may have been that of a tensor which is gone
            most_uses.pop(id(out), None)

        return keep

    def before_relu(module: nn.Module, arguments: Any) -> None:
        out = arguments[0]
        if not uses.of.get(id(out)):
            most_uses[id(out)] = float("inf") if getattr(module, "inplace", False) else 1

    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            handles.append(module.register_forward_hook(after_norm(name)))
        elif type(module) is nn.ReLU:
            handles.append(module.register_forward_pre_hook(before_relu))
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), uses:
            model.eval()(images)  # in training mode it would move running statistics
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return {name for name, out in outputs.items() if uses.of.get(id(out), 0) <= most_uses.get(id(out), -1)}
