"""What stands before and behind the batch norms of a network; found by watching a forward pass.

Behind them there may be a ReLU, perhaps after a residual sum, and before them a convolution.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

_SUMS = frozenset({"add", "__add__", "__radd__"})
_IN_PLACE = frozenset({"add_", "__iadd__"})


@dataclass
class _Seen:
    """A tensor that a norm has made, or the sum of such a one and another."""

    norm: str
    tensor: Tensor
    """Kept, so that no other one takes its id later."""
    may_be_added: bool
    uses_left: float = 0
    """How often functions may still see it, sums and ReLUs aside."""


class _Watch(TorchFunctionMode):
    """Follows what norms make, through one sum at most, to a ReLU; functions that only look at its properties do not count."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, _Seen] = {}
        self._before_relu: set[str] = set()
        self._seen_otherwise: set[str] = set()
        self._convolved: dict[int, tuple[str, Tensor]] = {}
        self.before_norm: set[str] = set()
        """The convolutions whose results a norm sees."""

    @property
    def found(self) -> set[str]:
        """The norms whose results nothing sees but one sum and one ReLU."""
        return self._before_relu - self._seen_otherwise

    def after_norm(self, name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, out: Tensor) -> None:
            self._seen[id(out)] = _Seen(name, out, may_be_added=True)

        return keep

    def after_convolution(self, name: str) -> Callable[..., None]:
        def keep(_: nn.Module, __: Any, out: Tensor) -> None:
            self._convolved[id(out)] = name, out

        return keep

    def before_its_norm(self, _: nn.Module, arguments: Any) -> None:
        if (convolved := self._convolved.get(id(arguments[0]))) is not None:
            self.before_norm.add(convolved[0])

    def before_relu(self, module: nn.Module, arguments: Any) -> None:
        """A ReLU that works in place may be the first only to see a tensor: whoever comes after it sees what it has made."""
        if (seen := self._seen.get(id(arguments[0]))) and seen.uses_left == 0:
            self._before_relu.add(seen.norm)
            seen.may_be_added = False
            seen.uses_left = float("inf") if getattr(module, "inplace", False) else 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, leaves = getattr(func, "__name__", ""), tree_leaves((args, kwargs or {}))
        given = [self._seen[id(leaf)] for leaf in leaves if id(leaf) in self._seen and name != "__get__"]
        out = func(*args, **(kwargs or {}))
        if given and given[0].may_be_added and _is_sum(name, leaves, given[0].tensor):
            first = given.pop(0)
            first.may_be_added = False
            self._seen[id(out)] = _Seen(first.norm, out, may_be_added=False)
        for seen in given:
            seen.uses_left -= 1
            if seen.uses_left < 0:
                self._seen_otherwise.add(seen.norm)
        return out


def _is_sum(function: str, arguments: list[Any], of: Tensor) -> bool:
    """Whether a function adds another tensor of the same shape to a tensor; in place or not, but not to the other."""
    if not (function in _SUMS or (function in _IN_PLACE and arguments[0] is of)):
        return False
    return len(arguments) == 2 and all(isinstance(each, Tensor) and each.shape == of.shape for each in arguments)


@dataclass(frozen=True, kw_only=True)
class Around:
    """What stands around the batch norms of a network; names of modules."""

    before_relu: Set[str] = frozenset()
    """Norms whose output one ReLU module sees and nothing else; a sum with another tensor, a residual, may lie between them."""
    convolutions: Set[str] = frozenset()
    """Convolutions whose output a norm sees."""


def around_norms(model: nn.Module, images: Tensor) -> Around:
    """What a forward pass of ``images`` shows."""
    watch, handles = _Watch(), []
    for name, module in model.named_modules():
        if type(module) is nn.BatchNorm2d:
            handles.append(module.register_forward_hook(watch.after_norm(name)))
            handles.append(module.register_forward_pre_hook(watch.before_its_norm))
        elif type(module) is nn.Conv2d:
            handles.append(module.register_forward_hook(watch.after_convolution(name)))
        elif type(module) is nn.ReLU:
            handles.append(module.register_forward_pre_hook(watch.before_relu))
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), watch:
            model.eval()(images)  # in training mode it would move running statistics
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return Around(before_relu=watch.found, convolutions=watch.before_norm)
