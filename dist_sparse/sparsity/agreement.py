"""How ranks come to hold the same masks: one owner a layer decides, and all of them check.

Each layer belongs to one rank. Only the owner selects; the bit-packed masks are then gathered, so they are the same
everywhere by construction, the work is shared between ranks, and nothing rests on two devices breaking a tie alike.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from dist_sparse.errors import Incomplete
from dist_sparse.sparsity import bits
from dist_sparse.sparsity.tensors import is_finite


def assign_owners(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """The owner rank of each layer.

    From the largest layer to the smallest, each goes to the rank that owns the least so far (the lower rank at a tie).
    """
    load = [0] * world_size
    owners = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        owner = load.index(min(load))
        load[owner] += sizes[name]
        owners[name] = owner
    return owners


def most_owned(sizes: Mapping[str, int], world_size: int) -> int:
    """How much of all layers the rank has that owns most."""
    owners = assign_owners(sizes, world_size)
    return max(sum(sizes[name] for name in sizes if owners[name] == rank) for rank in range(world_size))


class Disagreement(Incomplete):
    """Two ranks differ in what should be the same: raised on all of them, after all have compared, and told by the first."""

    on_all_ranks = True

    def __init__(self, message: str, *, rank: int) -> None:
        super().__init__(message)
        self.reports = rank == 0


class MaskDisagreement(Disagreement):
    """Two ranks hold different masks."""


class Agreement:
    """The layers' owners, and the collectives that masks need."""

    def __init__(self, shapes: Mapping[str, torch.Size], *, rank: int, world_size: int, device: torch.device) -> None:
        self._shapes = dict(shapes)
        self._rank, self._world_size, self._device = rank, world_size, device
        self._owners = assign_owners({name: shape.numel() for name, shape in shapes.items()}, world_size)

    @property
    def alone(self) -> bool:
        """There is no other rank to compare masks with."""
        return self._world_size == 1

    def owned(self) -> list[str]:
        """The layers that this rank decides, in the model's order."""
        return [name for name in self._shapes if self._owners[name] == self._rank]

    def decide(self, select: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        """Every layer's mask (bool, on the device), each selected by its owner alone. Collective."""
        decided = {name: bits.pack(select(name)) for name in self.owned()}
        sizes = {name: -(-shape.numel() // 8) for name, shape in self._shapes.items()}
        return bits.Unpacked(self.share(decided, sizes, torch.uint8), self._shapes)

    def share(self, owned: Mapping[str, Tensor], sizes: Mapping[str, int], dtype: torch.dtype) -> dict[str, Tensor]:
        """Vectors of all layers in ``sizes``, each from the layer's owner. Collective.

        Args:
            owned: this rank's layers among them, on the device.
            sizes: entries of each layer's vector; the same on every rank.
        """
        if self._world_size == 1 or not sizes:
            return dict(owned)
        loads = [0] * self._world_size
        for name, size in sizes.items():
            loads[self._owners[name]] += size
        mine = torch.zeros(max(loads), dtype=dtype, device=self._device)
        if owned:
            vectors = torch.cat([owned[name] for name in sizes if name in owned])
            mine[: len(vectors)] = vectors
        everyone = [torch.empty_like(mine) for _ in range(self._world_size)]
        dist.all_gather(everyone, mine)
        offsets = [0] * self._world_size
        vectors_of = {}
        for name, size in sizes.items():
            owner = self._owners[name]
            vectors_of[name] = everyone[owner][offsets[owner] : offsets[owner] + size]
            offsets[owner] += size
        return vectors_of

    def from_owners(
        self, owned: Callable[[str], Tensor], dtype_of: Callable[[str], torch.dtype]
    ) -> Iterator[tuple[str, Tensor]]:
        """Every layer's tensor, of the layer's shape, one after another from its owner. Collective.

        Args:
            owned: this rank's tensor of a layer that it decides.
            dtype_of: by layer; the same on every rank.
        """
        for name, shape in self._shapes.items():
            if mine := self._owners[name] == self._rank:
                tensor = owned(name).to(dtype_of(name)).contiguous()
            else:
                tensor = torch.empty(shape, dtype=dtype_of(name), device=self._device)
            assert not mine or tensor.shape == shape
            if self._world_size > 1:
                dist.broadcast(tensor, self._owners[name])
            yield name, tensor

    def total(self, values: Tensor) -> Tensor:
        """The element-wise sum over all ranks, in place. Collective."""
        if self._world_size > 1:
            dist.all_reduce(values)
        return values

    def all_finite(self, tensors: Iterable[Tensor]) -> bool:
        """Whether these are finite, and those that the other ranks ask about. Collective; the host waits for the device."""
        return bool(self.finite_on_device(tensors))

    def finite_on_device(self, tensors: Iterable[Tensor]) -> Tensor:
        """The same as a bool on the device, for which no host waits. Collective."""
        bad = torch.zeros((), dtype=torch.int64, device=self._device)
        for tensor in tensors:
            bad += ~is_finite(tensor)
        return self.total(bad) == 0

    def verify(self, digests_of_masks: Callable[[], Mapping[str, int]]) -> None:
        """Compare the masks' digests, which are taken only if there is another rank. Collective.

        Raises:
            MaskDisagreement: on every rank, naming the layers and the ranks that differ from rank 0.
        """
        if self._world_size == 1 or not self._shapes:
            return
        digests = digests_of_masks()
        mine = torch.tensor(list(digests.values()), dtype=torch.int64, device=self._device)
        everyone = [torch.empty_like(mine) for _ in range(self._world_size)]
        dist.all_gather(everyone, mine)
        table = torch.stack(everyone).cpu()
        differs = table != table[0]
        if differs.any():
            layers = [name for name, differing in zip(digests, differs.any(0).tolist(), strict=True) if differing]
            ranks = differs.any(1).nonzero().view(-1).tolist()
            raise MaskDisagreement(
                f"masks differ between ranks: ranks {ranks} do not hold rank 0's mask of {', '.join(layers)}", rank=self._rank
            )
