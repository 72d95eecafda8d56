"""One look at a masked network: its graph, what is tied together in it, which units are constant, and which can go."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from dist_sparse.errors import UserError, one_line
from dist_sparse.shrinking.constants import Constants
from dist_sparse.shrinking.coupling import Coupling
from dist_sparse.shrinking.narrow import apply_plan
from dist_sparse.shrinking.plan import Plan
from dist_sparse.shrinking.removal import Removal, Search
from dist_sparse.shrinking.trace import Traced, trace
from dist_sparse.shrinking.walk import Walk

_TOLERANCE = 1e-11


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What is known of one network before anything is removed from it."""

    traced: Traced
    masks: Mapping[str, Tensor]
    coupling: Coupling
    read: Mapping[fx.Node, Tensor]
    """By operation: the constant of every unit that it reads, NaN where that is none."""
    lost: Mapping[fx.Node, Tensor]
    """By convolution that pads: which units it reads are constants other than 0, and therefore differ at the borders."""

    def search(self, among: Collection[int] | None = None, **rules: Any) -> Removal:
        """What can go, of the units ``among`` if these are given; ``rules`` are those of :class:`.removal.Search`."""
        return Search(self.coupling, self.masks, self.traced.tensors, self.read, **rules).run(among)


def examine(masked: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> Examination:
    """Look at a masked copy of a network.

    Raises:
        UserError: it cannot be followed.
    """
    traced = trace(masked, example)
    constants = Constants(traced, masks)
    constants.find()
    coupling = Walk(traced).run()
    return Examination(traced=traced, masks=masks, coupling=coupling, read=constants.read, lost=constants.lost)


def check_equal(examined: Examination, plan: Plan, removal: Removal, example: Tensor) -> None:
    """Compare the network with what the plan makes of it, on random images, in double precision.

    Raises:
        UserError: the network's own code counts on a number of units that is gone.
    """
    masked, small = examined.traced.model, copy.deepcopy(examined.traced.model)
    apply_plan(small, plan, removal, examined.traced)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, *example.shape[1:], generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = masked(images)
        found = _outputs(small, images)
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    assert error <= _TOLERANCE, f"the shrunk network differs by {error}"


def _outputs(small: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    try:
        return small(images)
    except Exception as error:  # the network's own code
        reason = one_line((str(error).strip() or type(error).__name__).splitlines()[0])
        raise UserError(
            f"the network's code cannot run with fewer units: {reason}; name the layers whose units have to stay in keep"
        ) from error
