"""The networks that a checkpoint holds: one, or every sub-net of a method that trains several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dist_sparse.sparsity import bits
from dist_sparse.sparsity.methods import METHODS


@dataclass(frozen=True, kw_only=True)
class StoredNetwork:
    """A network as plain weights, its inactive ones 0."""

    label: str
    """``subnet1`` and so on; empty for the only one."""
    masks: Mapping[str, Tensor]
    """Packed, of the masked layers."""
    weights: dict[str, Tensor]
    """For the model's ``load_state_dict``."""

    @property
    def active(self) -> dict[str, int]:
        """Active weights of the masked layers."""
        return {name: bits.popcount(packed) for name, packed in self.masks.items()}


def networks_of(state: Mapping[str, Any], *, averaged: bool = False) -> list[StoredNetwork]:
    """The networks of a checkpoint's ``state``, the one that the run is for last; ``averaged`` weights where it has them."""
    stored = []
    for network in METHODS[state["config"]["sparsity.method"]].stored_masks(state["method"]):
        weights = {**state["state_dict_ema" if averaged else "state_dict"], **network.tensors}
        for name, packed in network.masks.items():
            weights[name] = weights[name] * bits.unpack(packed, weights[name].shape)
        stored.append(StoredNetwork(label=network.label, masks=network.masks, weights=weights))
    return stored
