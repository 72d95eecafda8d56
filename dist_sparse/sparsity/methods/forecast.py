"""What a method's masks will do over a whole run, known from its plan before the first step."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dist_sparse.sparsity.schedules import UpdateSchedule

LIKE_ERK = "which weights of all layers stay is decided by training; layers are assumed at Erdos-Renyi-kernel densities"
"""Why the densities of single layers are estimates."""


@dataclass(frozen=True, kw_only=True)
class MaskUpdate:
    """An update of masks. Both numbers are indices into the steps that a run makes, 0 the first."""

    index: int
    """The step that makes it."""
    from_index: int
    """The first step whose forward has the new masks."""
    densities: Mapping[str, float]
    """The density of every layer from then on."""
    gradient_densities: Mapping[str, float] | None = None
    """The share of every layer's weights whose gradients each step needs from then on; None if it is ``densities``."""


@dataclass(frozen=True, kw_only=True)
class NetworkForecast:
    """One network: the densities that its layers begin with, and its updates in their order."""

    label: str = ""
    initial: Mapping[str, float]
    initial_gradients: Mapping[str, float] | None = None
    """The share of every layer's weights whose gradients the first steps need; None if it is ``initial``."""
    updates: Sequence[MaskUpdate] = ()


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The networks, which take steps in turn; the last is the one that the run is for."""

    networks: Sequence[NetworkForecast]
    dense_gradient_steps: Sequence[int] = ()
    """Indices of the steps that need the gradients of all weights, in order."""
    replaced_steps: Sequence[int] = ()
    """Indices of the steps in which an update takes the place of the optimizer's step."""
    chosen_every_step: bool = False
    """Masks are chosen anew after every step, at the same density: that is no update."""
    mask_copies: int = 1
    """Masks of every masked layer that are held at once."""
    weight_copies: int = 0
    """Further tensors of every masked layer's shape and type that are held, such as dense weights."""
    owned_copies: int = 0
    """The same of the layers alone that a rank decides: summed or averaged gradients."""
    estimate: str = ""
    """Why the densities of single layers are not exact (the overall density is); empty where they are."""


def scheduled_updates(schedule: UpdateSchedule, made: Sequence[int]) -> dict[int, int]:
    """The regular steps at which a schedule updates, by the index of the step that makes them."""
    return {bisect_left(made, regular): regular for regular in schedule.regular(made[-1])}
