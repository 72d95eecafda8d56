"""The facts of a run that its execution depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Size, Tensor

from dist_sparse.config.execution import Compute
from dist_sparse.preemption import UntilAsked


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the execution of a run depends on, beside its network and masks."""

    compute: Compute
    channels_last: bool
    precision: str
    shape: Size
    """The shape of a micro-batch on this rank, of the largest images that the run trains on: [B, C, H, W]."""
    images: Tensor | None
    """A few, as the network takes them, to watch a forward pass of; None if the engine will change what modules give."""
    step: Callable[[], object]
    """Forward and backward of a micro-batch by the bare network."""
    impossible: str
    """Why no layer can be computed sparsely in this run; empty if some may."""
    pointless: str
    """Why ``auto`` does not try; empty if it does."""
    densities: Sequence[Mapping[str, float]]
    """The densities of layers that are to be expected, those of the end first."""
    final_masks: Callable[[], Mapping[str, Tensor]]
    """Masks with about the densities of the run's end."""
    tell: Callable[[str], None]
    until_asked: UntilAsked = iter
    """Goes through what takes long, until the run is asked to stop."""
