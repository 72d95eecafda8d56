"""The dense gradients that an update goes by: summed over the last steps before it, or averaged over all steps.

Each layer's are with its owner alone, who decides its mask by them; a checkpoint gathers them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.entries import Entries, values_of, whole
from dist_sparse.sparsity.methods.owned_gradients import OwnedGradients

_MEMORY = 0.9
"""The share of the average gradient that stays from one step to the next (SNFS's momentum)."""


class DenseGradients:
    """Sums and averages by layer name, taken between a step's last backward and the masking of its gradients."""

    def __init__(self, access: WeightAccess, agreement: Agreement) -> None:
        self._access, self._agreement = access, agreement
        self._owned = OwnedGradients(access, agreement)
        self._sums: dict[str, Tensor | Entries] = {}
        self.averages: dict[str, Tensor] = {}
        self._summing = self._averaging = False
        """There are sums, and averages; also where none is this rank's."""

    def add(self) -> None:
        """Add this step's gradients to the sums (which rank as the mean does). Collective."""
        layers, self._summing = self._agreement.owned(), True
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
        """The sum of a layer's gradients in the form that it is held in: whole, or the entries that were wanted."""
        return self._sums.get(name)

    def gathered_of(self, layers: Iterable[str]) -> list[Tensor]:
        """All numbers that sums and averages of some layers hold."""
        return [values_of(held[name]) for held in (self._sums, self.averages) for name in layers if name in held]

    def forget_sums(self) -> None:
        """The next step that is added begins them anew."""
        self._sums.clear()
        self._summing = False

    def average(self) -> None:
        """Move the averages towards this step's gradients, unless one of any layer is not finite. Collective.

        This happens at every step, so that no host waits to see which it was.
        """
        layers, self._averaging = self._agreement.owned(), True
        with self._access.gathered(gradients=layers):
            gradients = {name: self._access.grad(name) for name in layers}
            finite = self._agreement.finite_on_device(gradients.values())
            for name, gradient in gradients.items():
                if name not in self.averages:
                    self.averages[name] = torch.zeros_like(gradient, dtype=self._owned.dtype_of(name))
                average = self.averages[name]
                average.copy_(torch.where(finite, average.lerp(gradient.to(average.dtype), 1 - _MEMORY), average))

    def state_dict(self) -> dict[str, Any]:
        """The same on every rank. Collective."""
        return {
            "gradients": self._owned.gathered(self._sums) if self._summing else {},
            "averages": self._owned.gathered(self.averages) if self._averaging else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._summing, self._averaging = bool(state["gradients"]), bool(state["averages"])
        self._sums, self.averages = {**self._owned.own(state["gradients"])}, self._owned.own(state["averages"])
