"""A batch norm's result that is computed when it is known what comes behind it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from dist_sparse.execution.geometry import is_innermost

Compute = Callable[[Tensor | None, bool], Tensor]
"""The norm's result, with a residual added, and with a ReLU; there is no residual without a ReLU."""

_ADDITIONS = frozenset({"add", "__add__", "__radd__"})


class DeferredNorm:
    """Stands for the tensor that a batch norm gives: a residual sum and a ReLU are computed with it, in one pass.

    Whatever else is done with it is done with the tensor, which is computed then; so the result is the same in every use.
    """

    def __init__(self, compute: Compute, like: Tensor, residual: Tensor | None = None) -> None:
        """``like`` is a tensor that lies as the result does."""
        self._compute, self._like, self._residual = compute, like, residual
        self._version = 0 if residual is None else residual._version
        self._with_gradients = torch.is_grad_enabled()
        self._value: Tensor | None = None

    def tensor(self) -> Tensor:
        """The tensor, with a residual that was added."""
        if self._value is None:
            with torch.set_grad_enabled(self._with_gradients):
                out, residual = self._compute(None, False), self._unchanged_residual()
                self._value = out if residual is None else out + residual
        return self._value

    def with_relu(self, *, inplace: bool) -> Tensor:
        """The ReLU of the tensor; if that works in place, the tensor is this from now on."""
        if self._value is not None:
            return F.relu(self._value, inplace=inplace)
        with torch.set_grad_enabled(self._with_gradients):
            out = self._compute(self._unchanged_residual(), True)
        if inplace:
            self._value = out
        return out

    def __add__(self, other: Any) -> Any:
        other = computed(other)
        if self._takes(other):
            return DeferredNorm(self._compute, self._like, other)
        return self.tensor() + other

    __radd__ = __add__

    def __iadd__(self, other: Any) -> Any:
        other = computed(other)
        if self._takes(other):
            self._residual, self._version = other, other._version
            return self
        value = self.tensor()
        value += other
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of any object
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _ADDITIONS and len(args) == 2 and not kwargs:
            first, second = args
            return first + second if isinstance(first, DeferredNorm) else second + first
        return func(*tree_map(computed, args), **tree_map(computed, kwargs or {}))

    def _takes(self, other: Any) -> bool:
        """Whether a sum with another tensor can be left to the ReLU."""
        if self._value is not None or self._residual is not None or not isinstance(other, Tensor):
            return False
        alike = other.shape == self._like.shape and other.dtype == self._like.dtype and is_innermost(other)
        return alike and self._with_gradients == torch.is_grad_enabled()

    def _unchanged_residual(self) -> Tensor | None:
        assert self._residual is None or self._residual._version == self._version, "a residual changed before its ReLU"
        return self._residual


def computed(value: Any) -> Any:
    """A value, or the tensor that it stands for."""
    return value.tensor() if isinstance(value, DeferredNorm) else value


def _by_tensor(name: str) -> Callable[..., Any]:
    def operate(self: DeferredNorm, *others: Any) -> Any:
        return getattr(self.tensor(), name)(*map(computed, others))

    return operate


for _name in ("sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul", "neg", "abs", "getitem", "len"):
    setattr(DeferredNorm, f"__{_name}__", _by_tensor(f"__{_name}__"))
for _name in ("lt", "le", "gt", "ge"):
    setattr(DeferredNorm, f"__{_name}__", _by_tensor(f"__{_name}__"))
