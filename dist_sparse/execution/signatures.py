"""What the kernels' C functions take."""

import ctypes
from typing import Any

from dist_sparse.execution.structures import Blocks, Groups, NormGradient, Pass, Plane, Pool, Rows

POINTER, _STEP = ctypes.c_void_p, ctypes.c_int64


def _over(parts: type[ctypes.Structure], *arguments: Any) -> tuple[Any, ...]:
    """The types of what a kernel takes: structures of its parts, their number, and what is the same for all."""
    return ctypes.POINTER(parts), ctypes.c_int, *arguments


_ROWS, _GROUPS, _FROM = ctypes.POINTER(Rows), ctypes.POINTER(Groups), ctypes.POINTER(NormGradient)
KERNELS: dict[str, tuple[Any, ...]] = {
    "multiply_rows": _over(Pass, POINTER, POINTER, _ROWS, POINTER),
    "correlate_rows": _over(Pass, POINTER, POINTER, _ROWS, POINTER, _STEP),
    "multiply_groups": _over(Pass, POINTER, POINTER, _GROUPS, POINTER),
    "spread_groups": _over(Pass, POINTER, POINTER, _GROUPS, POINTER),
    "correlate_groups": _over(Pass, POINTER, POINTER, _GROUPS, POINTER, _STEP),
    "norm_sums": _over(Plane, POINTER, _STEP, POINTER, POINTER, _STEP),
    "norm_apply": _over(Plane, POINTER, _STEP, *[POINTER] * 3, _STEP, POINTER),
    "norm_gradient_sums": _over(Plane, _FROM, POINTER, _STEP),
    "norm_gradient_apply": _over(Plane, _FROM, *[POINTER] * 4),
    "max_pool": _over(Pool, *[POINTER] * 3),
    "max_pool_gradient": _over(Pool, POINTER, _STEP, *[POINTER] * 2),
    "average_pool": _over(Pool, *[POINTER] * 4),
    "average_pool_gradient": _over(Pool, POINTER, _STEP, *[POINTER] * 3),
    "rows_to_blocks": _over(Blocks, *[POINTER] * 3, _STEP),
    "blocks_to_rows": _over(Blocks, *[POINTER] * 3),
}
"""The C functions of ``native/kernels.cpp`` for each type of numbers, and what they take."""
