"""Which units are removed: those that no layer reads, and those whose constant can be given to what reads them.

A unit goes when every layer that reads it can do without. Then its own inputs may be read by nobody any more, so the search is
repeated until nothing changes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from dist_sparse.shrinking.constants import active_pairs
from dist_sparse.shrinking.coupling import Coupling, Reader
from dist_sparse.shrinking.units import Ids, Reason

READ = "read by"
NO_BIAS = "constant, but there is no bias to add it to in"
AT_THE_BORDER = "constant, but not at the border after the zero padding of"
CARRIER = "standing for all constants that end at the border by the zero padding of"
ONE_LEFT = "the last of"
ROUND = "so many that widths stay round in"
EQUAL_GROUPS = "so many that groups keep one size in"


@dataclass(frozen=True)
class Fold:
    """What a layer takes over from units that it no longer reads, by their positions."""

    reader: Reader
    constants: Tensor
    """One for each input; 0 for those that give nothing over."""
    carriers: Mapping[int, tuple[int, float]]
    """By group, for a layer that pads: position in the group and constant of the unit that stays and stands for the others."""


@dataclass
class Removal:
    """The outcome."""

    removed: set[int] = field(default_factory=set)
    """Roots."""
    folds: list[Fold] = field(default_factory=list)
    reasons: dict[int, list[Reason]] = field(default_factory=dict)
    """Why a root stays, by root."""


class Search:
    """Grows the set of removed units until nothing more can go."""

    def __init__(
        self,
        coupling: Coupling,
        masks: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        read: Mapping[fx.Node, Tensor],
        *,
        multiple: int = 1,
        new_biases: bool = True,
    ) -> None:
        """``multiple``: what widths that it divides stay a multiple of; ``new_biases``: layers may get one to add to."""
        self._multiple = multiple
        self._coupling = coupling
        roots = coupling.units.roots
        uses = [reader.weight for reader in coupling.readers]
        self._views = [
            _View(
                reader=reader,
                inputs=reader.by_group(roots(reader.inputs)),
                outputs=reader.by_group(roots(reader.outputs)),
                pairs=_pairs(reader, masks, tensors),
                constants=reader.by_group(read[reader.node].numpy()),
                alone=uses.count(reader.weight) == 1,
                takes_constants=reader.bias is not None and (new_biases or reader.bias in tensors),
            )
            for reader in coupling.readers
        ]
        self._boxes = [(view.name, box) for view in self._views for box in (view.inputs, view.outputs)]

    def run(self, among: Collection[int] | None = None) -> Removal:
        """Remove what can go until nothing more can: what is gone frees what only that has read.

        ``among``: the roots that may go at all; any by default.
        """
        pinned = self._coupling.units.pinned()
        candidates = {root for view in self._views for root in view.inputs.ravel().tolist()}
        if among is not None:
            candidates &= set(among)
        found = Removal()
        while True:
            reasons: dict[int, list[Reason]] = {root: [reason] for root, reason in pinned.items()}
            for view in self._views:
                for root, reason in view.objections(found.removed):
                    reasons.setdefault(root, []).append(reason)
            more = self._balanced(found.removed, candidates - reasons.keys() - found.removed, reasons)
            if not more:
                break
            found.removed |= more
        found.reasons = reasons
        found.folds = [fold for view in self._views if (fold := view.fold(found.removed)) is not None]
        return found

    def _balanced(self, removed: set[int], more: set[int], reasons: dict[int, list[Reason]]) -> set[int]:
        """As many of ``more`` that every layer keeps a unit, and the groups of a convolution stay of one size."""
        more = set(more)
        while True:
            surplus: dict[int, Reason] = {}
            for name, box in self._boxes:
                gone = [[int(root) for root in group if int(root) in more or int(root) in removed] for group in box]
                limit = self._limit(min(map(len, gone)), box.shape[1])
                kind = EQUAL_GROUPS if len(box) > 1 else ONE_LEFT if self._multiple == 1 else ROUND
                why = Reason(kind, name)
                for group in gone:
                    free = [root for root in group if root in more]
                    surplus |= dict.fromkeys(free[len(free) - max(0, len(group) - limit) :], why)
                if surplus:
                    break
            if not surplus:
                return more
            more -= surplus.keys()
            for root, why in surplus.items():
                reasons.setdefault(root, []).append(why)

    def _limit(self, found: int, width: int) -> int:
        """How many of ``found`` units may go from a layer of this width."""
        limit = min(found, width - 1)
        return limit - limit % self._multiple if width % self._multiple == 0 else limit


@dataclass
class _View:
    """A reader with roots instead of numbers, everything by group."""

    reader: Reader
    inputs: Ids
    outputs: Ids
    pairs: np.ndarray
    """[groups, outputs, inputs], True where a weight between them is active."""
    constants: np.ndarray
    """[groups, inputs], NaN where unknown."""
    alone: bool
    """Its weight is used once, so that it can be changed for what is read there."""
    takes_constants: bool
    """It has something to add a constant to."""
    carriers: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.reader.weight.removesuffix(".weight")

    def read(self, removed: set[int]) -> np.ndarray:
        """Which inputs an output that is left reads: [groups, inputs]."""
        left = ~np.isin(self.outputs, list(removed))
        return np.any(self.pairs & left[:, :, None], axis=1)

    def objections(self, removed: set[int]) -> list[tuple[int, Reason]]:
        """Units that this layer cannot do without, and why. Chooses who carries constants where it pads."""
        read = self.read(removed)
        needed = read & ~(self.constants == 0)
        known = needed & ~np.isnan(self.constants)
        if self.reader.padded:
            self._choose(known)
        found = []
        for group, position in np.argwhere(needed):
            if not known[group, position]:
                kind = READ
            elif not self.reader.padded:
                if self.alone and self.takes_constants:
                    continue
                kind = NO_BIAS
            elif self.carriers.get(group) == position:
                continue  # below
            elif group in self.carriers:
                continue
            else:
                kind = AT_THE_BORDER
            found.append((int(self.inputs[group, position]), Reason(kind, self.name)))
        why = Reason(CARRIER, self.name)
        return found + [(int(self.inputs[group, position]), why) for group, position in self.carriers.items()]

    def _choose(self, known: np.ndarray) -> None:
        """The largest constant of each group stands for the others from now on."""
        for group in range(len(known)):
            if group not in self.carriers and known[group].sum() > 1 and self.alone:
                self.carriers[group] = int(np.argmax(np.where(known[group], np.abs(self.constants[group]), -1)))

    def fold(self, removed: set[int]) -> Fold | None:
        """What is left to take over."""
        gone = np.isin(self.inputs, list(removed)) & self.read(removed) & ~np.isnan(self.constants) & (self.constants != 0)
        if not gone.any():
            return None
        constants = torch.from_numpy(np.where(gone, self.constants, 0.0).ravel())
        carriers = {group: (position, float(self.constants[group, position])) for group, position in self.carriers.items()}
        return Fold(self.reader, constants, carriers)


def _pairs(reader: Reader, masks: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> np.ndarray:
    pairs = active_pairs(masks.get(reader.weight), tensors[reader.weight]).numpy()
    return pairs.reshape(reader.groups, -1, pairs.shape[1])
