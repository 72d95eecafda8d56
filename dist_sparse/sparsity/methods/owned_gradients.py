"""Gradients of whole layers that are kept from one step to another, each with the rank alone that decides the layer's mask."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.entries import Entries, whole


class OwnedGradients:
    """How gradients by layer, each with its owner alone, go into a checkpoint and come out of it."""

    def __init__(self, access: WeightAccess, agreement: Agreement) -> None:
        self._access, self._agreement = access, agreement

    def gathered(self, held: Mapping[str, Tensor | Entries]) -> dict[str, Tensor]:
        """Copies of all layers' on the CPU, of which this rank holds its own. Collective."""
        tensors = self._agreement.from_owners(lambda name: whole(held[name]), self.dtype_of)
        return {name: tensor.to("cpu", copy=True) for name, tensor in tensors}

    def own(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's layers among those that were gathered, on the device."""
        owned = (name for name in self._agreement.owned() if name in saved)
        return {name: saved[name].to(self._access.weight(name).device, copy=True) for name in owned}

    def dtype_of(self, name: str) -> torch.dtype:
        """What a layer's are kept in: fp32 at least."""
        return torch.promote_types(self._access.weight(name).dtype, torch.float32)
