"""Pruning-plasticity probes: what a trained network loses when it is pruned at once, and wins back by training on.

S. Liu et al.: "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration", NeurIPS 2021, arXiv 2106.10404,
section 3; the six forms are those that the GraNet repository names. A rate q is a fraction of what is *active*, so that a
sparse network is probed like a dense one, and what lies outside its masks stays there (q of n, in exact arithmetic)::

    prune_uniform      each layer loses the ceil(q n_l) active weights of smallest |w|
    prune_global       all layers together lose the ceil(q n) active weights of smallest |w|
    prune_structured   each layer loses the floor(q f_l) of its f_l active output filters that have the smallest sum |w|
    prune_and_grow_*   then each layer grows as many weights as it has lost, and keeps its density: the inactive ones of
                       largest |g|, those just lost among them; of a structured probe, within as many filters as it has
                       lost, those without an active weight whose sum |g| is largest

Equal scores count in the order of layers and indices. What grows starts at 0, so a dense network is dense again, with
zeros. ``g`` is the gradient of the network as it was before it was pruned, as in a GraNet update.

Deviations from the repository: there the structured probes were taken out and those that grow fail, since no gradient
reaches them; and a filter of a sparse layer grows with as many weights as went, where all of a filter would change the density.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.global_selection import global_top_k
from dist_sparse.sparsity.selection import top_k
from dist_sparse.sparsity.structures import Filter

Tensors = Mapping[str, Tensor]
"""By layer name."""

_FILTERS = Filter()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One way to prune a network at once."""

    name: str
    globally: bool = False
    """All layers compete; otherwise each layer loses its own share."""
    filters: bool = False
    """Whole output filters go; otherwise single weights."""
    grows: bool = False
    """As many weights grow as have gone."""

    def prune(self, rate: Fraction, weights: Tensors, masks: Tensors, agreement: Agreement) -> Mapping[str, Tensor]:
        """What is left of ``masks`` (bool, of the weights' shapes) at a ``rate`` from 0 to 1. Collective."""
        if self.globally:
            return _prune_globally(rate, weights, masks, agreement)
        prune = _prune_filters if self.filters else _prune_layer
        return agreement.decide(lambda name: prune(rate, weights[name], masks[name]))

    def grow(self, before: Tensors, kept: Tensors, gradients: Tensors, agreement: Agreement) -> Mapping[str, Tensor]:
        """The ``kept`` masks, in a probe that grows with as many weights more as they had ``before``. Collective.

        ``gradients`` are dense, of the weights' shapes, and averaged over ranks.
        """
        if not self.grows:
            return dict(kept)
        grow = _grow_filters if self.filters else _grow_layer
        return agreement.decide(lambda name: grow(before[name], kept[name], gradients[name]))


PROBES = {
    f"prune_{and_grow}{scope}": Probe(
        name=f"prune_{and_grow}{scope}", globally=scope == "global", filters=scope == "structured", grows=bool(and_grow)
    )
    for scope in ("uniform", "global", "structured")
    for and_grow in ("", "and_grow_")
}


def _prune_layer(rate: Fraction, weight: Tensor, mask: Tensor) -> Tensor:
    return _best(scores.magnitude(weight), math.floor((1 - rate) * int(mask.sum())), among=mask)


def _prune_globally(rate: Fraction, weights: Tensors, masks: Tensors, agreement: Agreement) -> Mapping[str, Tensor]:
    owned, some = agreement.owned(), next(iter(weights.values()))
    chosen = global_top_k(
        {name: scores.magnitude(weights[name]) for name in owned},
        {name: masks[name] for name in owned},
        math.floor((1 - rate) * sum(int(mask.sum()) for mask in masks.values())),
        layers=list(weights),
        sizes=dict.fromkeys(weights, 1),
        dtype=torch.promote_types(torch.float32, some.dtype),
        device=some.device,
        total=agreement.total,
    )
    return agreement.decide(lambda name: chosen[name])


def _prune_filters(rate: Fraction, weight: Tensor, mask: Tensor) -> Tensor:
    active = _FILTERS.active(mask)
    count = int(active.sum())
    kept = _best(_sum_of_filters(weight * mask), count - math.floor(rate * count), among=active)
    return mask & _FILTERS.mask(kept, mask.shape)


def _grow_layer(before: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
    return kept | _best(scores.magnitude(gradient), _lost(before, kept), among=~kept)


def _grow_filters(before: Tensor, kept: Tensor, gradient: Tensor) -> Tensor:
    """Filters that went held no more weights than as many empty ones have room for."""
    empty = ~_FILTERS.active(kept)
    filters = _best(_sum_of_filters(gradient), _lost(_FILTERS.active(before), ~empty), among=empty)
    room = _FILTERS.mask(filters, kept.shape)
    return kept | _best(scores.magnitude(gradient), _lost(before, kept), among=room)


def _lost(before: Tensor, kept: Tensor) -> int:
    return int(before.sum()) - int(kept.sum())


def _sum_of_filters(tensor: Tensor) -> Tensor:
    """Sum of absolute values by filter [1, O], in float64."""
    return _FILTERS.split(scores.magnitude(tensor).double()).sum(2)


def _best(score: Tensor, count: int, *, among: Tensor) -> Tensor:
    """The best candidates of all entries together, bool of the score's shape."""
    return top_k(score.reshape(1, -1), torch.tensor([count]), among.reshape(1, -1)).view_as(among)
