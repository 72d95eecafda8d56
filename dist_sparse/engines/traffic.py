"""How many bytes the exchange of gradients sends, from counts alone: no tensor, no process group."""

from collections.abc import Mapping
from typing import Literal

Compress = Literal["none", "bf16"]

WORTH_PACKING = 0.5
"""The largest active share of a bucket that ``engine.exchange=auto`` packs: above it, packing takes what a fast network would
save."""

_ELEMENT_BYTES = {"fp64": 8, "fp32": 4, "bf16": 4, "fp16": 4}
"""Bytes of a gradient's element by ``train.precision``: mixed precision keeps weights and their gradients in fp32."""


def elements_per_step(parameters: Mapping[str, int], active: Mapping[str, int]) -> int:
    """Gradient elements that one step averages over ranks: (d N_sparse + N_dense) of all N.

    Args:
        parameters: elements of every trainable parameter, by name.
        active: active weights of the layers that have a mask. Empty for a step that needs the dense gradient.
    """
    assert active.keys() <= parameters.keys(), "a mask without its weight"
    return sum(active.get(name, elements) for name, elements in parameters.items())


def bytes_per_step(elements: int, world_size: int, *, precision: str = "fp32", compress: Compress = "none") -> int:
    """Bytes that every rank sends, and receives as many, for an all-reduce of so many elements.

    A ring (NCCL, gloo) passes every element on twice but for each rank's own share: 2 (W - 1) / W of it (P. Patarasuk, X. Yuan:
    "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 2009). One rank sends nothing.
    """
    size = 2 if compress == "bf16" else _ELEMENT_BYTES[precision]
    return -(-2 * (world_size - 1) * elements * size // world_size)
