"""The ways to compute a masked layer by its active weights. Another one is a class here, and a file of its products."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Size, Tensor

from dist_sparse.execution.gathered import Gathered
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.passes import default_choice
from dist_sparse.execution.products import Products
from dist_sparse.execution.row_groups import GROUP, RowGroups, load_of_groups
from dist_sparse.execution.unstructured import Unstructured
from dist_sparse.execution.wide_groups import ROWS, WideGroups
from dist_sparse.sparsity import bits

DENSE = "dense"
"""The name of torch's own way, which multiplies by all weights: what a layer is computed in that takes no other."""


@dataclass(frozen=True, kw_only=True)
class LayerMask:
    """A layer's mask: its bits in the order of the weight's rows, and how many are set."""

    packed: Tensor
    active: int
    shape: Size

    @classmethod
    def of(cls, mask: Tensor) -> "LayerMask":
        """From a bool tensor."""
        return cls(packed=bits.pack(mask), active=int(mask.sum()), shape=mask.shape)

    @property
    def density(self) -> float:
        return self.active / self.shape.numel()

    @property
    def matrix(self) -> Tensor:
        """The mask as bool [out, everything else]."""
        return bits.unpack(self.packed, self.shape).reshape(self.shape[0], -1)


class Way(ABC):
    """One way to compute a layer."""

    name: ClassVar[str]
    most_load: ClassVar[float] = 1.0
    """With more it is not worth a thought."""

    @abstractmethod
    def takes(self, shape: Size) -> bool:
        """Whether it can compute a layer whose weight has this shape."""

    @abstractmethod
    def load(self, mask: LayerMask) -> float:
        """The products that it computes, as a share of the dense layer's."""

    @abstractmethod
    def load_at(self, density: float, like: LayerMask) -> float:
        """The load to expect at a density of a mask that is made as another is."""

    @abstractmethod
    def example(self, shape: Size, load: float, generator: torch.Generator) -> Tensor:
        """A mask with about this load, to measure with: bool of the weight's shape."""

    @abstractmethod
    def products(self, mask: LayerMask, geometry: Geometry, element_size: int) -> Products:
        """The products of a mask in a geometry, of numbers of so many bytes."""


@dataclass(frozen=True)
class UnstructuredWay(Way):
    """By each active weight alone: :mod:`.unstructured`."""

    kernels: Kernels

    name = "unstructured"

    def takes(self, shape: Size) -> bool:
        return True

    def load(self, mask: LayerMask) -> float:
        return mask.density

    def load_at(self, density: float, like: LayerMask) -> float:
        return density

    def example(self, shape: Size, load: float, generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator) < load

    def products(self, mask: LayerMask, geometry: Geometry, element_size: int) -> Products:
        choice = default_choice(geometry, "unstructured", element_size=element_size, density=mask.density)
        return Unstructured(self.kernels, mask.packed, mask.active, geometry, choice)


class _GroupsWay(Way):
    """By so many rows at once, with all columns in which one of them is active."""

    rows: ClassVar[int]

    def takes(self, shape: Size) -> bool:
        return shape[0] % self.rows == 0

    def load_at(self, density: float, like: LayerMask) -> float:
        if self.load(like) < 1.25 * like.density:  # rows agree in groups
            return density
        return 1 - (1 - density) ** self.rows

    def example(self, shape: Size, load: float, generator: torch.Generator) -> Tensor:
        groups = torch.rand(shape[0] // self.rows, *shape[1:], generator=generator) < load
        return groups.repeat_interleave(self.rows, 0)


@dataclass(frozen=True)
class RowGroupsWay(_GroupsWay):
    """By four rows at once: :mod:`.row_groups`."""

    kernels: Kernels

    name = "row groups"
    rows = GROUP

    def load(self, mask: LayerMask) -> float:
        return load_of_groups(self.kernels, mask.matrix)

    def products(self, mask: LayerMask, geometry: Geometry, element_size: int) -> Products:
        choice = default_choice(geometry, "row_groups", element_size=element_size)
        return RowGroups(self.kernels, bits.unpack(mask.packed, mask.shape), geometry, choice)


class _WideGroupsWay(_GroupsWay):
    """By 16 rows at once: :mod:`.wide_groups`."""

    rows = ROWS
    most_load = 0.9  # torch's own product, of all weights and nothing gathered, is as good from there on

    def load(self, mask: LayerMask) -> float:
        return ROWS * len(WideGroups.of(mask.matrix).column) / max(1, mask.shape.numel())


class GatheredWay(_WideGroupsWay):
    """In plain torch: :mod:`.gathered`."""

    name = "gathered rows"

    def products(self, mask: LayerMask, geometry: Geometry, element_size: int) -> Products:
        return Gathered(WideGroups.of(mask.matrix), geometry)


class TritonWay(_WideGroupsWay):
    """In Triton's kernels: :mod:`.triton_groups`."""

    name = "Triton"

    def products(self, mask: LayerMask, geometry: Geometry, element_size: int) -> Products:
        from dist_sparse.execution.triton_groups import TritonGroups

        return TritonGroups(WideGroups.of(mask.matrix), geometry)
