"""Several sub-nets in one model: a mask and a set of batch norms each, over weights that they share."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.bits import Unpacked
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.methods.ast.norms import NormSets
from dist_sparse.sparsity.methods.base import Network, StoredMasks
from dist_sparse.sparsity.methods.dense_weights import DenseWeights


class SubNets:
    """The sub-nets by number. Between :meth:`enter` and :meth:`leave` the model is one of them; else its weights are dense."""

    def __init__(self, access: WeightAccess, first: Masks, count: int) -> None:
        """``count`` sub-nets with the masks of the first."""
        weights = {name: access.weight(name) for name in first.names}
        self._masks = [first, *(Masks(weights) for _ in range(count - 1))]
        for other in self._masks[1:]:
            other.replace({name: first[name] for name in first.names})
        self._dense = DenseWeights(access)
        self._norms = NormSets(access, count, after=first.names[0])
        self._union = Masks(weights)
        self.unite()

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, number: int) -> Masks:
        return self._masks[number]

    @property
    def union(self) -> Masks:
        """What is active in some sub-net; of date as of the last :meth:`unite`."""
        return self._union

    def unite(self) -> None:
        """Bring :attr:`union` up to date."""
        packed = [masks.packed() for masks in self._masks]
        united = {name: reduce(or_, (each[name] for each in packed)) for name in self._union.names}
        self._union.replace(Unpacked(united, {name: self._union[name].shape for name in united}))

    def enter(self, number: int) -> Masks:
        """Make the model a sub-net, unless it is one already (from an earlier micro-batch of the step)."""
        if not self._dense.applied:
            self._norms.put(number)
            self._dense.apply(self._masks[number])
        return self._masks[number]

    def leave(self) -> None:
        """Give the model its dense weights back; it keeps the sub-net's norms, whose step is to come."""
        self._dense.restore()

    @contextlib.contextmanager
    def _applied(self, number: int) -> Iterator[None]:
        with self._norms.applied(number), self._dense.masked(self._masks[number]):
            yield

    def networks(self) -> list[Network]:
        return [
            Network(label=label, masks=masks, applied=partial(self._applied, number))
            for number, (label, masks) in enumerate(zip(labels(len(self)), self._masks, strict=True))
        ]

    def digests(self, *, in_memory: bool) -> dict[str, int]:
        """Digests of all sub-nets' masks; those of a single one go by the layer's name alone."""
        return {
            f"{network.label} {name}".lstrip(): digest
            for network in self.networks()
            for name, digest in network.masks.digests(in_memory=in_memory).items()
        }

    def state_dict(self) -> dict[str, Any]:
        return {"masks": [masks.state_dict() for masks in self._masks], "norms": self._norms.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for masks, saved in zip(self._masks, state["masks"], strict=True):
            masks.load_state_dict(saved)
        self._norms.load_state_dict(state["norms"])


def stored_masks(state: Mapping[str, Any]) -> Sequence[StoredMasks]:
    """The sub-nets of a :meth:`SubNets.state_dict`."""
    saved = zip(labels(len(state["masks"])), state["masks"], state["norms"]["sets"], strict=True)
    return [StoredMasks(label=label, masks=masks["masks"], tensors=norms) for label, masks, norms in saved]


def labels(count: int) -> list[str]:
    return [f"subnet{number}" for number in range(1, count + 1)] if count > 1 else [""]
