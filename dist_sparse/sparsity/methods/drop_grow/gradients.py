"""The dense gradients that an update goes by: summed over the last steps before it, or averaged over all steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.entries import Entries, values_of, whole
from dist_sparse.sparsity.tensors import is_finite

_MEMORY = 0.9
"""The share of the average gradient that stays from one step to the next (SNFS's momentum)."""


def all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether all entries of all tensors are finite, as a bool on their device."""
    return torch.stack([is_finite(tensor) for tensor in tensors]).all()


class DenseGradients:
    """Sums and averages by layer name, taken between a step's last backward and the masking of its gradients."""

    def __init__(self, access: WeightAccess) -> None:
        self._access = access
        self._sums: dict[str, Tensor | Entries] = {}
        self.averages: dict[str, Tensor] = {}

    def add(self, layers: Iterable[str]) -> None:
        """Add this step's gradients of some layers to the sums (which rank as the mean does). Collective."""
        layers = list(layers)
        with self._access.gathered(gradients=layers):
            for name in layers:
                if (before := self.sum_of(name)) is None:
                    self._sums[name] = self._access.kept_grad(name)
                else:
                    self._sums[name] = before.add_(self._access.grad(name))

    def sum_of(self, name: str) -> Tensor | None:
        """The sum of a layer's gradients, if they were added."""
        return whole(self._sums[name]) if name in self._sums else None

    def held(self, name: str) -> Tensor | Entries | None:
        """The same as it is held."""
        return self._sums.get(name)

    def gathered_of(self, layers: Iterable[str]) -> list[Tensor]:
        """All numbers that sums and averages of some layers hold."""
        return [values_of(held[name]) for held in (self._sums, self.averages) for name in layers if name in held]

    def forget_sums(self) -> None:
        """The next step that is added begins them anew."""
        self._sums.clear()

    def average(self, layers: Sequence[str]) -> None:
        """MaskUpdate the averages towards this step's gradients, unless one of these is not finite. Collective.

        This happens at every step, so that no host waits to see which it was.
        """
        with self._access.gathered(gradients=layers):
            gradients = {name: self._access.grad(name) for name in layers}
            finite = all_finite(gradients.values())
            for name, gradient in gradients.items():
                if name not in self.averages:
                    self.averages[name] = torch.zeros_like(gradient)
                average = self.averages[name]
                average.copy_(torch.where(finite, average.lerp(gradient, 1 - _MEMORY), average))

    def state_dict(self) -> dict[str, Any]:
        sums = {name: whole(gradient).cpu() for name, gradient in self._sums.items()}
        averages = {name: average.cpu().clone() for name, average in self.averages.items()}
        return {"gradients": sums, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums, self.averages = (
            {name: tensor.to(self._access.weight(name).device) for name, tensor in state[key].items()}
            for key in ("gradients", "averages")
        )
