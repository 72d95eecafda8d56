"""Gradients of whole weights where weights are packed: each with the rank alone that decides the layer's mask.

One exists on the steps whose method asks for all gradients, then within the backward of its layer only: there each
micro-batch's is averaged over ranks to the layer's owner, which adds them up. Of the sum the owner keeps what it may
want until the step is made, or all of them where a method does not know beforehand what it wants.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from dist_sparse.distributed import max_over_ranks, world_size
from dist_sparse.execution.packed_layer import PackedLayer
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.agreement import assign_owners
from dist_sparse.sparsity.entries import Entries, values_of, whole


class WholeGradients:
    """By layer name, from the first micro-batch of a step to its end."""

    def __init__(self, layers: Mapping[str, PackedLayer], is_last: Callable[[], bool]) -> None:
        """``is_last`` tells within a backward whether it is that of a step's last micro-batch."""
        self._layers, self._is_last = layers, is_last
        self._owners = assign_owners({name: layer.shape.numel() for name, layer in layers.items()}, world_size())
        self._held: dict[str, Tensor | Entries] = {}
        """Gradients of this rank's layers; of all layers after :meth:`share`."""

    def listen(self, wanted: Wanted | None) -> None:
        """Take the gradients of the coming backward, of which the step will use what is ``wanted``; None: all."""
        for layer in self._layers.values():
            layer.collect = functools.partial(self._take, wanted)

    def ignore(self) -> None:
        """The coming backward is to be without whole gradients."""
        for layer in self._layers.values():
            layer.collect = None

    def _take(self, wanted: Wanted | None, name: str, gradient: Tensor) -> None:
        """Within the backward of a layer, which is at the same place on all ranks."""
        before, several = self._held.pop(name, None), world_size() > 1
        entries = wanted if self._is_last() else None
        if several or (before is None and entries is None):
            gradient = gradient.clone(memory_format=torch.contiguous_format)
        if several:
            dist.reduce(gradient.div_(world_size()), self._owners[name])
            if self._owners[name] != dist.get_rank():
                return
        if before is not None:
            gradient = whole(before).add_(gradient)
        self._held[name] = gradient if entries is None else Entries.of(gradient, entries(name, gradient))

    def share(self, wanted: list[str], parameters: Mapping[str, Tensor]) -> None:
        """Give every rank the gradients that their owners have, if some rank asks for others than its own. Collective.

        ``parameters`` have their type and device.
        """
        if world_size() == 1 or not self._layers:
            return
        device = parameters[next(iter(self._layers))].device
        others = sum(name not in self._held for name in wanted)
        asked = max_over_ranks(torch.tensor([others, len(self._held)], dtype=torch.int32, device=device))
        if not asked.all():
            return
        for name, owner in self._owners.items():
            held = self._held.get(name)
            gradient = parameters[name].new_empty(self._layers[name].shape) if held is None else whole(held)
            dist.broadcast(gradient, owner)
            self._held[name] = gradient

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def get(self, name: str) -> Tensor | Entries | None:
        """As it is held, if it is."""
        return self._held.get(name)

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """By name all entries that are there."""
        return ((name, values_of(gradient)) for name, gradient in self._held.items())

    def clear(self) -> None:
        """The step is made."""
        self._held.clear()
