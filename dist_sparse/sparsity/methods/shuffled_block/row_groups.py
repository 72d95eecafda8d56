"""Rows of a 0/1 mask that are alike, put together in groups of equal size."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_CHUNKS = 4  # of the rows, so that of the symmetric matrix of overlaps little more than half is computed
_EXACT_BITS = 24  # of a whole number in float32


def row_groups(mask: Tensor, size: int) -> Tensor:
    """Groups of ``size`` rows, int64 [rows / size, size] on the mask's device.

    The rows are clustered (:func:`cluster_rows`) into as many clusters as there are groups. Clusters stand in the order of
    their size, the largest first and where sizes are equal the one with the lowest row; rows within a cluster in their own
    order. The sequence is cut into groups, so that clusters of unequal size are cut across groups.

    Args:
        mask: bool [rows, columns]; ``size`` divides the rows.
    """
    labels = cluster_rows(mask, len(mask) // size)
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first[labels], -sizes[labels]))
    return torch.from_numpy(order).view(-1, size).to(mask.device)


def cluster_rows(mask: Tensor, clusters: int) -> np.ndarray:
    """The cluster (from 0 on) of each row of a bool [rows, columns], int64 [rows].

    Agglomerative, with complete linkage of the cosine distance between rows; a row without an active entry has cosine 0 to all.
    """
    from scipy.cluster.hierarchy import linkage  # half a second that no other method needs
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = len(mask)
    if clusters == 1:
        return np.zeros(rows, dtype=np.int64)
    merges = linkage(_distances(mask), method="complete")[: rows - clusters, :2].astype(np.int64)
    merged = np.arange(rows, rows + len(merges)).repeat(2)  # merge i makes node rows + i of its two nodes
    nodes = rows + len(merges)
    graph = coo_array((np.ones(len(merged), dtype=bool), (merges.reshape(-1), merged)), shape=(nodes, nodes))
    labels = connected_components(graph, directed=False)[1][:rows]
    return np.unique(labels, return_inverse=True)[1]


def _distances(mask: Tensor) -> np.ndarray:
    """-cos^2 of each pair of rows (0, 1), (0, 2), ..., float64.

    Complete linkage only compares distances, and -cos^2 orders as the cosine distance does. It is a ratio of whole numbers,
    which float32 holds exactly up to 2^24, so that pairs which are equally far tie.
    """
    rows = mask.float()
    counts = rows.sum(1).clamp(min=1)
    bits = int(counts.max()).bit_length()
    chunk = -(-len(rows) // _CHUNKS)
    parts: list[np.ndarray] = []
    for start in range(0, len(rows), chunk):
        first = start
        for overlap in _overlaps(rows[start : start + chunk], rows[start:], bits):
            overlap.square_().div_(counts[first : first + len(overlap), None] * counts[start:]).neg_()
            parts += [row[first - start + number + 1 :] for number, row in enumerate(overlap.cpu().numpy())]
            first += len(overlap)
    return np.concatenate(parts, dtype=np.float64)


def _overlaps(left: Tensor, right: Tensor, bits: int) -> Iterator[Tensor]:
    """How many entries each row of ``left`` shares with each of ``right``, a few rows of ``left`` at a time; float32.

    No overlap has more than ``bits`` bits, so one product of whole numbers that float32 holds exactly makes those of
    ``24 // bits`` rows: they are the digits of its entries. On a GPU, which may be told to round products, it makes one's.
    """
    together = max(_EXACT_BITS // bits, 1) if left.device.type == "cpu" else 1
    parts = left.split(-(-len(left) // together))
    packed = parts[0].clone()
    for place, part in enumerate(parts[1:], start=1):
        packed[: len(part)].add_(part, alpha=2 ** (place * bits))
    digits = (packed @ right.T).int()
    for part in parts:
        yield (digits[: len(part)] & (1 << bits) - 1).float()
        digits >>= bits
