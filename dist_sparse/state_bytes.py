"""The memory that a run's state takes on one rank, counted from the tensors that are there."""

from collections.abc import Sequence

from torch import Tensor

from dist_sparse.engines.base import Engine
from dist_sparse.execution.execution import Execution
from dist_sparse.sparsity.methods.base import Method


def state_bytes(engine: Engine, method: Method, execution: Execution) -> dict[str, int]:
    """Bytes by kind: ``weights`` (buffers included), ``gradients``, ``optimizer``, ``masks``, ``indices``.

    Gradients are counted as between a backward pass and its step; those that a method collects to grow by, and activations,
    are not. Indices are what packed weights and sparse execution know active weights by.
    """
    held = {network.masks for network in method.networks()} | {method.backward_masks}
    return {
        "weights": _bytes([tensor for _, tensor in engine.held("weights")]) + _bytes(list(engine.model.buffers())),
        "gradients": engine.gradient_bytes(),
        "optimizer": _bytes([tensor for _, tensor in engine.held("optimizer")]),
        "masks": sum(masks.held_bytes() for masks in held),
        "indices": engine.index_bytes() + execution.index_bytes(engine.model),
    }


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
