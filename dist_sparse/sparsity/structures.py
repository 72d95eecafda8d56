"""What is kept or dropped together.

A structure cuts a weight into units and arranges them as ``[S, U]``: S selection sets in which U units compete. The exact
row-wise functions of :mod:`dist_sparse.sparsity.selection` then serve every structure. One class a structure; it says how
to cut (:meth:`Structure.split`), how to put together again (:meth:`Structure.merge`), and which shapes it fits.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Structure(ABC):
    """Units of E weights each, arranged in S rows of U competitors."""

    name: ClassVar[str]

    @abstractmethod
    def split(self, tensor: Tensor) -> Tensor:
        """A weight-shaped tensor as [S, U, E]."""

    @abstractmethod
    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`split`."""

    def misfit(self, shape: torch.Size) -> str | None:
        """Why a weight of ``shape`` cannot be cut into these units, or None if it can."""
        return None

    def counts(self, shape: torch.Size) -> tuple[int, int, int]:
        """S, U and E for a weight of ``shape``."""
        sets, units, size = self.split(torch.empty(shape, device="meta")).shape
        return sets, units, size

    def score(self, weight_score: Tensor) -> Tensor:
        """Score of each unit [S, U]: the L2 norm of its weights' non-negative scores."""
        units = self.split(weight_score)
        return units.squeeze(2) if units.shape[2] == 1 else torch.linalg.vector_norm(units, dim=2)

    def active(self, mask: Tensor) -> Tensor:
        """Which units [S, U] a mask keeps."""
        units = self.split(mask)
        return units.squeeze(2) if units.shape[2] == 1 else units.any(2)

    def mask(self, active: Tensor, shape: torch.Size) -> Tensor:
        """The bool mask of ``shape`` that keeps the ``active`` units [S, U]."""
        size = self.counts(shape)[2]
        return self.merge(active.unsqueeze(2).expand(*active.shape, size), shape)


class Unstructured(Structure):
    """Every weight is a unit of its own and competes with all others of its layer: (1, numel)."""

    name = "unstructured"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1, 1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


STRUCTURES: dict[str, type[Structure]] = {cls.name: cls for cls in (Unstructured,)}
