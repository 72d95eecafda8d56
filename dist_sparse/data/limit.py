"""Which samples of a split are used where ``data.limit`` asks for a few."""

import numpy as np


def spread(size: int, limit: int | None) -> np.ndarray | slice:
    """An index of at most ``limit`` of ``size`` samples, evenly spread over their order; of all without a limit."""
    if limit is None or limit >= size:
        return slice(None)
    return np.arange(limit, dtype=np.int64) * size // limit
