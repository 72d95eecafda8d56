"""Which unit is worth more: non-negative scores of a weight's shape, higher is better."""

import torch
from torch import Tensor


def magnitude(tensor: Tensor) -> Tensor:
    """|w| of a weight, or |g| of a gradient that was averaged over the ranks *before* (mean first, absolute value after).

    NaN scores 0, so that a diverging run keeps exact counts until it is stopped.
    """
    return tensor.detach().abs().nan_to_num_(nan=0.0, posinf=torch.inf)


def random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent uniform scores, on the CPU: the best k are a uniformly random choice of k, the same for every device."""
    return torch.rand(shape, generator=generator)
