"""The facts of a run that its execution depends on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dist_sparse.config.execution import Compute


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the execution of a run depends on, beside its network and masks."""

    compute: Compute
    channels_last: bool
    precision: str
    images: Tensor
    """A micro-batch on this rank, as the network takes it."""
    step: Callable[[], object]
    """Forward and backward of it by the bare network."""
    impossible: str
    """Why no layer can be computed sparsely in this run; empty if some may."""
    pointless: str
    """Why ``auto`` does not try; empty if it does."""
    densities: Sequence[Mapping[str, float]]
    """The densities of layers that are to be expected, those of the end first."""
    final_masks: Callable[[], Mapping[str, Tensor]]
    """Masks with about the densities of the run's end."""
    tell: Callable[[str], None]
