"""A backend of sparse execution in one file: it computes a layer by its active columns alone, in plain torch.

Masks of whole channels leave such columns.
"""

from collections.abc import Iterator

import torch
from torch import Size, Tensor

from dist_sparse.execution.backends import Backend
from dist_sparse.execution.gathered import Gathered
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.products import Products
from dist_sparse.execution.ways import LayerMask, Way
from dist_sparse.execution.wide_groups import ROWS, WideGroups


class ActiveColumns(Way):
    """All rows are computed at once, with the columns in which at least one of them is active."""

    name = "active columns"
    most_load = 0.9

    def takes(self, shape: Size) -> bool:
        return shape[0] % ROWS == 0

    def load(self, mask: LayerMask) -> float:
        return float(mask.matrix.any(0).float().mean())

    def load_at(self, density: float, like: LayerMask) -> float:
        return density if self.load(like) < 1.25 * like.density else 1.0

    def example(self, shape: Size, load: float, generator: torch.Generator) -> Tensor:
        return (torch.rand(1, *shape[1:], generator=generator) < load).expand(shape)

    def products(self, mask: LayerMask, geometry: Geometry, element_size: int) -> Products:
        return Gathered(WideGroups.of(mask.matrix.any(0).expand(mask.matrix.shape)), geometry)


def make() -> Iterator[Backend]:
    yield Backend(name="columns", manner="by active columns", device="cpu", ways={ActiveColumns.name: ActiveColumns()})
