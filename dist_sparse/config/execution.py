"""The section `execution` of a configuration: how masked layers are computed."""

from dataclasses import dataclass
from typing import Literal

from dist_sparse.config.numbers import STRICT, Count

Compute = Literal["auto", "dense", "sparse"]
Storage = Literal["masked", "packed"]


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    __pydantic_config__ = STRICT

    compute: Compute = "auto"
    """How masked layers are multiplied. auto: on the CPU each is measured at its size, once for a machine, and has its fastest
    way, if the network gains by it; dense: all weights are multiplied, zeros too; sparse: whatever can be by active weights
    alone, faster or not."""

    storage: Storage = "masked"
    """How masked layers are held. masked: weights, gradients and the optimizer's state are dense tensors with zeros; packed:
    they are of active weights alone, and a whole weight is there while its layer needs it. Checkpoints are the same."""

    shrink: bool = False
    """Take dead units out of the network while it is trained, which makes all that follows faster on any device. For structures
    filter and channel, once no unit comes back: with gmp and static, and after the last update of granet, rigl, set and mest.
    Checkpoints hold the whole network."""

    width_multiple: Count = 8
    """Layers whose width is a multiple of this number keep one when they shrink (execution.shrink), which kernels are faster
    with. 1 takes out whatever is dead."""
