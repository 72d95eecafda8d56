"""AST's gradient correction: what is left of a gradient that opposes the one before it."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.masks import Masks

Kind = Literal["within_mask", "whole", "none"]


def correct_(gradient: Tensor, previous: Tensor, mask: Tensor, kind: Kind) -> None:
    """Project ``gradient``, in place, onto what is orthogonal to ``previous``, if their product is negative.

    ``within_mask`` goes by the previous gradient as far as the present ``mask`` reaches, so that the result stays within it
    and is orthogonal to that gradient there; ``whole`` goes by all of it, and leaves the mask. ``gradient`` is masked.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    along = previous.to(dtype) * mask if kind == "within_mask" else previous.to(dtype)
    product, square = (gradient.to(dtype) * along).sum(), (along * along).sum()
    # What is not finite opposes nothing, and must not reach the gradient as 0 times infinity.
    opposed = (product < 0) & (square > 0) & product.isfinite() & square.isfinite()
    gradient.sub_(torch.where(opposed, product / square * along, 0).to(gradient.dtype))


class Correction:
    """Corrects the gradients of a group of steps, each by the one before it; the first of a group stays as it is."""

    def __init__(self, access: WeightAccess, kind: Kind, group: int) -> None:
        self._access, self._group = access, group
        self._kind: Kind = kind
        self._previous: dict[str, Tensor] = {}
        """Masked and as they were before their own correction; of all layers on every rank, which all correct alike."""

    def __call__(self, masks: Masks, place: int) -> None:
        """Correct the masked gradients of the step at a ``place`` of its group (0 is the first, which nothing is kept for)."""
        if self._kind == "none":
            return
        before, is_last = self._previous, place + 1 == self._group
        self._previous = {}
        if is_last and not before:
            return
        with self._access.gathered(gradients=masks.names):
            if not is_last:
                self._previous = {name: self._access.grad(name).clone() for name in masks.names}
            for name in before:
                correct_(self._access.grad(name), before[name], masks[name], self._kind)

    def state_dict(self) -> dict[str, Any]:
        return {name: gradient.cpu() for name, gradient in self._previous.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._previous = {name: gradient.to(self._access.weight(name).device) for name, gradient in state.items()}
