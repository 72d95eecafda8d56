"""The object that owns the masks of a model's sparse layers."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dist_sparse.sparsity import bits


class Masks:
    """Masks (True = active) by layer name, and the record of every weight that was ever active.

    Masks are never inferred from weights. A mask is kept as bits, one bit a weight, which are packed once when the mask is
    replaced: counts, digests and checkpoints are made of them. Once a tensor is to be multiplied by it, what it is multiplied
    by lies beside them: one byte a weight, except on the CPU, where a multiplier in the weight's dtype is several times
    faster. The record of explored weights is one bit a weight, too, and stays in host memory (but see
    :meth:`replace_unsynchronised`).
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """All-true masks for ``weights``, in their memory formats, for :meth:`replace` to fill."""
        self._layouts = {name: _layout(weight) for name, weight in weights.items()}
        self._multipliers: dict[str, Tensor] = {}
        """Masks as factors, for those layers that something was multiplied by."""
        self._bits = {
            name: bits.pack(torch.ones(weight.shape, dtype=torch.bool, device=weight.device))
            for name, weight in weights.items()
        }
        self._unpacked: tuple[Tensor, Tensor] | None = None
        """Bits and mask of the layer that was asked for last."""
        self._active = {name: weight.numel() for name, weight in weights.items()}
        self._explored: dict[str, Tensor] = {}
        self.version = 0
        """A number that grows whenever masks may have changed; whoever keeps what was made of them compares it."""

    def __getitem__(self, name: str) -> Tensor:
        """The bool mask of a layer, of its weight's shape; not to be written to."""
        if name in self._multipliers:
            return self._multipliers[name].bool()
        packed, layout = self._bits[name], self._layouts[name]
        if self._unpacked is None or self._unpacked[0] is not packed:
            mask = torch.empty_like(layout, dtype=torch.bool, device=packed.device).copy_(bits.unpack(packed, layout.shape))
            self._unpacked = packed, mask
        return self._unpacked[1]

    def __len__(self) -> int:
        return len(self._bits)

    @property
    def names(self) -> Sequence[str]:
        """Layer names in the model's order."""
        return tuple(self._bits)

    def shape(self, name: str) -> torch.Size:
        """The shape of a layer's weight."""
        return self._layouts[name].shape

    def _multiplier(self, name: str) -> Tensor:
        """What tensors of a layer are multiplied by."""
        if name not in self._multipliers:
            layout, device = self._layouts[name], self._bits[name].device
            made = torch.empty_like(layout, dtype=layout.dtype if device.type == "cpu" else torch.bool, device=device)
            self._multipliers[name] = made.copy_(self[name])
        return self._multipliers[name]

    def lie_as(self, weights: Mapping[str, Tensor]) -> None:
        """Lie in memory as the weights do now, whose order has changed since the masks were made."""
        for name, weight in weights.items():
            self._layouts[name] = _layout(weight)
            self._multipliers.pop(name, None)

    def let_go(self) -> None:
        """Nothing will be multiplied by the masks soon: keep their bits alone."""
        self._multipliers.clear()

    def replace(self, masks: Mapping[str, Tensor]) -> None:
        """Take new masks for some layers or all; they count as explored."""
        self.version += 1
        for name in masks:
            # Bits that were received are parts of one large tensor, which a checkpoint would save as a whole.
            packed = masks.packed[name].clone() if isinstance(masks, bits.Unpacked) else bits.pack(masks[name])
            if name in self._multipliers:
                self._multipliers[name].copy_(masks[name])
            self._bits[name], self._active[name] = packed, bits.popcount(packed)
            explored = packed.cpu()
            self._explored[name] = self._explored.get(name, explored).cpu() | explored

    def replace_unsynchronised(self, masks: Mapping[str, Tensor]) -> None:
        """As :meth:`replace`, with masks of as many active weights as before, at every step: no host waits for the device."""
        self.version += 1
        for name, mask in masks.items():
            self._multiplier(name).copy_(mask)
            self._bits[name] = bits.pack(mask)
            self._explored[name] = self._explored[name].to(mask.device) | self._bits[name]

    def packed(self) -> dict[str, Tensor]:
        """Every mask as it is now, one bit a weight; not to be written to."""
        return dict(self._bits)

    def _pack(self) -> dict[str, Tensor]:
        """The bits of what is in memory now, which should be :meth:`packed`."""
        return {name: bits.pack(self[name]) if name in self._multipliers else packed for name, packed in self._bits.items()}

    def changed_since(self, packed: Mapping[str, Tensor]) -> dict[str, int]:
        """How many entries of each mask differ from what :meth:`packed` gave earlier."""
        return {name: bits.popcount(before ^ self._bits[name]) for name, before in packed.items()}

    def multiply_(self, tensors: Mapping[str, Tensor]) -> None:
        """Zero the inactive entries of weight-shaped tensors, in place and in one call; they must be finite."""
        if tensors:
            torch._foreach_mul_(list(tensors.values()), [self._multiplier(name) for name in tensors])

    def multiply_parts_(self, parts: Iterable[tuple[str, slice, Tensor]]) -> None:
        """As :meth:`multiply_`, of flat runs of entries: layer name, where in the flattened weight, and the entries there."""
        tensors, multipliers = [], []
        for name, span, part in parts:
            tensors.append(part)
            multipliers.append(self._multiplier(name).view(-1)[span].to(part.device))
        if tensors:
            torch._foreach_mul_(tensors, multipliers)

    def active(self) -> dict[str, int]:
        """Active weights of each layer."""
        return dict(self._active)

    def densities(self) -> dict[str, float]:
        """Density of each layer."""
        return self.shares(self._active)

    def density(self) -> float:
        """Active weights of all masked layers over all their weights; 1 if no layer has a mask."""
        return self.share(self._active) if self._active else 1.0

    def exploration(self) -> float:
        """ITOP's exploration rate R_s: weights that were ever active over all weights of the masked layers."""
        explored = {name: bits.popcount(packed) for name, packed in self._explored.items()}
        return self.share(explored) if explored else 1.0

    def restart_exploration(self) -> None:
        """Forget what was active before the masks of now."""
        self._explored = {name: packed.cpu() for name, packed in self.packed().items()}

    def explored(self, name: str) -> Tensor:
        """Which weights of a layer were ever active (bool, on the layer's device)."""
        return bits.unpack(self._explored[name].to(self._bits[name].device), self.shape(name))

    def shares(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Counts of weights as fractions of their layers."""
        return {name: count / self.shape(name).numel() for name, count in counts.items()}

    def share(self, counts: Mapping[str, int]) -> float:
        """Counts of weights as a fraction of all masked layers together."""
        return sum(counts.values()) / sum(self.shape(name).numel() for name in self.names)

    def digests(self, *, in_memory: bool = False) -> dict[str, int]:
        """A 63-bit digest of each mask's bits; with ``in_memory``, for a check, of what gradients are multiplied by, packed."""
        return {name: bits.digest(packed) for name, packed in (self._pack() if in_memory else self._bits).items()}

    def digest(self) -> str:
        """64 bits over all masks and their names, as 16 hexadecimal digits."""
        return combined(self.digests())

    def held_bytes(self) -> int:
        """The memory that masks and the record of explored weights take."""
        held = [*self._multipliers.values(), *self._bits.values(), *self._explored.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def state_dict(self) -> dict[str, Any]:
        """Masks and exploration record, one bit a weight each."""
        return {
            "masks": {name: packed.to("cpu", copy=True) for name, packed in self._bits.items()},
            "explored": {name: packed.cpu().clone() for name, packed in self._explored.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave for the same layers."""
        if set(state["masks"]) != set(self._bits):
            raise ValueError("the checkpoint holds masks of other layers than this run's")
        for name, packed in state["masks"].items():
            self.replace({name: bits.unpack(packed.to(self._bits[name].device), self.shape(name))})
        self._explored = {name: packed.clone() for name, packed in state["explored"].items()}


def _layout(weight: Tensor) -> Tensor:
    """How a weight lies in memory and its dtype, without its values."""
    return torch.empty_like(weight, device="meta", requires_grad=False)


def together(*digests: Mapping[str, int]) -> dict[str, int]:
    """One digest for several of each layer, so that ranks compare all of them in one exchange."""
    return {name: bits.digest(torch.tensor([each[name] for each in digests])) for name in digests[0]}


def combined(digests: Mapping[str, int]) -> str:
    """64 bits over digests and their names, as 16 hexadecimal digits."""
    return hashlib.blake2b(repr(dict(digests)).encode(), digest_size=8).hexdigest()
