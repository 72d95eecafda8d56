"""A structure whose units choose which of their weights they hold: kernel patterns."""

from fractions import Fraction
from typing import ClassVar

import torch
from torch import Tensor

from dist_sparse.sparsity.structures.base import Structure

_PATTERNS = (
    "000 011 011",
    "000 110 110",
    "011 011 000",
    "110 110 000",
    "000 001 111",
    "000 111 010",
    "010 011 010",
    "010 110 010",
)


class Pattern(Structure):
    """Every output filter keeps the same number of its 3x3 kernels, and of each four weights in one of 8 patterns: (O, I).

    MEST's ``pattern+filter_balance`` (arXiv 2110.14032). The density is that of weights: a layer that keeps every kernel has
    4/9, and at 0.1 22.5 % of the kernels are active. A kernel takes the pattern that holds the largest L2 norm (the first of
    them at a tie) or a random one when it becomes active, and has it for as long as it is active. The mask is the record of
    it: a pattern is never read from weights, so a live weight that is tiny, or exactly 0, stays.
    """

    layer_wide = False
    name = form = example = "pattern"
    unit, competitors = "a 3x3 kernel, of which one of 8 patterns of 4 weights", "output filter"
    capacity: ClassVar[Fraction] = Fraction(4, 9)
    chooses = True

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), tensor.shape[1], 9)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)

    def misfit(self, shape: torch.Size) -> str | None:
        return None if shape[2:] == (3, 3) else "it has no 3x3 kernels"

    def counts(self, shape: torch.Size) -> tuple[int, int, int]:
        return shape[0], shape[1], 4

    def score(self, weight_score: Tensor) -> Tensor:
        """The L2 norm under a unit's best pattern; for an active unit, whose other scores are 0, that is under its own."""
        return _energies(self.split(weight_score)).amax(2).sqrt().to(weight_score.dtype)

    def mask(
        self, active: Tensor, shape: torch.Size, *, before: Tensor | None = None, choose_by: Tensor | None = None
    ) -> Tensor:
        held = torch.zeros(*active.shape, 9, dtype=torch.bool, device=active.device) if before is None else self.split(before)
        fresh = active & ~held.any(2)
        if choose_by is None:
            assert not fresh.any(), "a unit that becomes active needs a score to choose its pattern by"
        else:
            held = torch.where(fresh[:, :, None], _best_patterns(self.split(choose_by.to(active.device))), held)
        return self.merge(held & active[:, :, None], shape)

    def random_choice(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        numbers = torch.randint(len(_PATTERNS), (shape[0], shape[1]), generator=generator)
        return self.merge(_table(torch.device("cpu"))[numbers].float(), shape)


def _table(device: torch.device) -> Tensor:
    """The patterns, bool [8, 9]."""
    rows = [[digit == "1" for digit in pattern.replace(" ", "")] for pattern in _PATTERNS]
    return torch.tensor(rows, device=device)


def _energies(units: Tensor) -> Tensor:
    """Sums of squares of units [S, U, 9] under each pattern [S, U, 8], in float64: float32 would lose small weights."""
    places = _table(units.device).nonzero()[:, 1].view(len(_PATTERNS), 4)
    return units.double().square()[:, :, places].sum(3)


def _best_patterns(units: Tensor) -> Tensor:
    """The pattern of largest norm of each unit, the first at a tie: bool [S, U, 9]."""
    energies = _energies(units)
    best = energies == energies.amax(2, keepdim=True)
    return _table(units.device)[(best.cumsum(2) == 0).sum(2)]
