"""What the threads of a kernel do: each takes a part of what there is to do, the same part each time.

The threads are torch's own (``native/parallel.h``), as many as torch has.
"""

import ctypes
import itertools
from collections.abc import Sequence
from typing import Any

import torch

from dist_sparse.execution.structures import Pass


def parts_of_strips(shape: Pass) -> list[Pass]:
    return [_copy(shape, first_strip=first, last_strip=last) for first, last in spans(shape.strips)]


def spans(count: int, grain: int = 1) -> list[tuple[int, int]]:
    """``range(count)`` in one span for each of torch's threads, of whole grains but for the last."""
    grains = -(-count // grain)
    threads = max(1, min(torch.get_num_threads(), grains))
    bounds = [min(count, grains * each // threads * grain) for each in range(threads + 1)]
    return list(itertools.pairwise(bounds))


def parts_to_add_up(shape: Pass) -> list[Pass]:
    """For a kernel that adds to what it finds, where neighbouring rows of the image may have elements in common."""
    rows, in_row = spans(shape.height), shape.strips // shape.height
    if min(last - first for first, last in rows) < 2 * shape.shared_rows:  # a part would wait for most of the next one
        return _parts_of_samples(shape)
    return [_copy(shape, first_strip=first * in_row, last_strip=last * in_row) for first, last in rows]


def _parts_of_samples(shape: Pass) -> list[Pass]:
    """The fewer samples a part has, the more of its positions go at once."""
    made = spans(shape.last_sample, 16)
    positions = shape.positions * (2 if len(made) > 1 else 1)
    parts = [_copy(shape, first_sample=first, last_sample=last, positions=positions) for first, last in made]
    for part in parts:
        part.last_strip = part.strips
    return parts


def _copy(shape: Pass, **values: int) -> Pass:
    copy = Pass.from_buffer_copy(shape)
    for name, value in values.items():
        setattr(copy, name, value)
    return copy


def run(kernel: Any, parts: Sequence[ctypes.Structure], *arguments: Any) -> None:
    """Call a kernel, which gives Python's lock free, for all parts, structures of one type."""
    array: Any = type(parts[0]) * len(parts)
    kernel(array(*parts), len(parts), *arguments)
