"""Masks that a run takes over from the file whose weights it starts from (``sparsity.init=checkpoint``)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_sparse.errors import UserError
from dist_sparse.sparsity.distributions import Shapes
from dist_sparse.sparsity.structures import parse_structure

ENTRY = "carried"
"""Where a method's state holds the counts."""


@dataclass(frozen=True, kw_only=True)
class Carried:
    """The first masks of a run that takes them over."""

    active: Mapping[str, int]
    """The active weights of each layer."""
    masks: Mapping[str, Tensor] | None
    """Bool, of the weights' shapes. None in a run that goes on: what has become of them is in its own checkpoint."""

    @classmethod
    def from_file(cls, masks: Mapping[str, Tensor], structure: str) -> "Carried":
        """Masks out of a file.

        Raises:
            UserError: one of them is not of this structure.
        """
        for name, mask in masks.items():
            if reason := _misfit(mask, structure):
                raise UserError(f"sparsity.init=checkpoint: the mask of {name} is not one of structure {structure}: {reason}")
        return cls(active={name: int(mask.sum()) for name, mask in masks.items()}, masks=masks)

    @classmethod
    def from_state(cls, method: object, shapes: Shapes) -> "Carried":
        """The counts that the state of a run's method holds.

        Raises:
            UserError: it holds none of these layers.
        """
        counts = method.get(ENTRY) if isinstance(method, dict) else None
        if not isinstance(counts, dict) or counts.keys() != shapes.keys():
            raise UserError(
                "the run to go on with did not begin with sparsity.init=checkpoint and masks of these layers: leave "
                "sparsity.init and sparsity.keep_dense as they were"
            )
        if bad := [name for name, count in counts.items() if type(count) is not int or not 0 <= count <= shapes[name].numel()]:
            raise UserError(f"the checkpoint's entry 'method.{ENTRY}.{bad[0]}' is no number of the layer's weights")
        return cls(active=counts, masks=None)

    def density(self, shapes: Shapes) -> float:
        """The density of all layers together."""
        return sum(self.active.values()) / sum(shape.numel() for shape in shapes.values())


def _misfit(mask: Tensor, text: str) -> str | None:
    """Why a mask cannot be one of a structure, or None if it can."""
    structure = parse_structure(text)
    if reason := structure.misfit(mask.shape):
        return reason
    active = structure.active(mask)
    if not torch.equal(structure.mask(active, mask.shape, choose_by=mask.float()), mask):
        return "it keeps parts of units"
    counts = active.sum(1)
    if not bool((counts == counts[0]).all()):
        return f"where units compete with one another it keeps from {int(counts.min())} to {int(counts.max())} of them"
    return None
