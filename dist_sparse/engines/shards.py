"""What one rank holds of a model that is sharded over ranks: pieces of flattened parameters, written to in place."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dist_sparse.engines.capabilities import Holding


@dataclass(frozen=True)
class Piece:
    """A run of entries of a flattened parameter, and where they lie."""

    start: int
    values: Tensor
    """Flat, a view of what the engine works with."""

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + self.values.numel())

    def copy_from(self, whole: Tensor) -> None:
        """Take this piece's entries of a parameter-shaped tensor."""
        self.values.copy_(whole.reshape(-1)[self.span])


class Shards(ABC):
    """This rank's pieces by parameter name; None or an empty list where it holds nothing of a parameter."""

    pieces_of: ClassVar[frozenset[Holding]]
    """What a rank has to gather before a parameter's values are whole; the rest every rank has whole."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters

    @abstractmethod
    def shape(self, name: str) -> torch.Size:
        """Shape of the whole parameter."""

    @abstractmethod
    def master(self, name: str) -> Piece | None:
        """What the optimizer steps; None too where every rank has it whole and the forward pass reads it."""

    @abstractmethod
    def gradient(self, name: str) -> Piece | None:
        """Averaged over ranks; between the last backward of a step and the step."""

    @abstractmethod
    def state(self, name: str) -> dict[str, Piece | None]:
        """The optimizer's state that has an entry for every weight; the same keys on every rank."""

    @abstractmethod
    def forward(self, name: str) -> list[Piece]:
        """What the forward pass reads, all copies of it."""

    def is_whole(self, name: str) -> bool:
        """The forward pass's parameter lies here whole at present, as on every rank."""
        return "weights" not in self.pieces_of

    def release(self) -> None:  # noqa: B027
        """Forget what was gathered for a forward pass, when :meth:`forward`'s pieces have been changed since."""
