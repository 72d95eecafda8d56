"""What a structure is: how to cut a weight into units, and how to put it together again.

A structure cuts a weight into units and arranges them as ``[S, U]``: S selection sets in which U units compete. The exact
row-wise functions of :mod:`dist_sparse.sparsity.selection` then serve every structure. One class a structure; it says how
to cut (:meth:`Structure.split`), how to put together again (:meth:`Structure.merge`), and which shapes it fits.
"""

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor


class Structure(ABC):
    """Units of E weights each, arranged in S rows of U competitors."""

    name: ClassVar[str]
    form: ClassVar[str]
    """How it is written in a configuration, such as ``block:ROWSxCOLUMNS``."""
    example: ClassVar[str]
    """One that can be written, such as ``block:4x1``."""
    unit: ClassVar[str]
    """What is kept or dropped together, in a few words for the table."""
    competitors: ClassVar[str]
    """Which units compete with one another, in a few words for the table."""
    layer_wide: ClassVar[bool] = True
    """All units of a layer compete, so that there may be any number of them."""
    capacity: ClassVar[Fraction] = Fraction(1)
    """Density of a layer all of whose units are active."""
    chooses: ClassVar[bool] = False
    """A unit holds some of its weights only, and chooses which when it becomes active."""

    @classmethod
    def parse(cls, argument: str | None) -> "Structure":
        """The structure from what follows its name and a colon in a configuration, None if nothing does.

        Raises:
            ValueError: it cannot be understood; says why, in words that can follow the text and a colon.
        """
        if argument is not None:
            raise ValueError("nothing may follow the name")
        return cls()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def density(self) -> float | None:
        """The density that the structure itself fixes for every layer, or None if any will do."""
        return None

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
        """S, U and the number of weights that an active unit holds, for a weight of ``shape``."""
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

    def weights_of(self, units: Tensor, shape: torch.Size) -> Tensor:
        """All weights of some units [S, U], those that an active one may leave out too: bool of ``shape``."""
        size = self.split(torch.empty(shape, device="meta")).shape[2]
        return self.merge(units.unsqueeze(2).expand(*units.shape, size), shape)

    def mask(
        self, active: Tensor, shape: torch.Size, *, before: Tensor | None = None, choose_by: Tensor | None = None
    ) -> Tensor:
        """The bool mask of ``shape`` that keeps the ``active`` units [S, U].

        Where a unit :attr:`chooses` its weights, one that is active in the mask ``before`` holds what it held, and any other
        what scores most by ``choose_by``, which is weight-shaped and not negative. Without such a choice neither matters.
        """
        return self.weights_of(active, shape)

    def random_choice(self, shape: torch.Size, generator: torch.Generator) -> Tensor | None:
        """For ``choose_by``: every choice of every unit is as likely as any other. None if there is no choice."""
        return None
