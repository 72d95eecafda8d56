"""Blocks of a weight matrix: against the reference's matrices, and what must hold of any."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.spatial.distance import pdist
from torch import Tensor

from dist_sparse.sparsity.methods.shuffled_block.blocks import (
    Blocks,
    drop_and_grow,
    drop_rows_and_columns,
    extract,
    packed_length,
)
from dist_sparse.sparsity.methods.shuffled_block.row_groups import _distances, cluster_rows, row_groups
from dist_sparse.sparsity.schedules import Cosine, drop_count
from dist_sparse.sparsity.selection import top_k

Vectors = Callable[[str], dict[str, Any]]


def largest(score: Tensor, k: int, among: Tensor | None = None) -> Tensor:
    among = torch.ones_like(score, dtype=torch.bool) if among is None else among
    return top_k(score.reshape(1, -1), torch.tensor([k]), among=among.reshape(1, -1)).view_as(score)


def check(blocks: Blocks, rows: int, columns: int, count: int) -> Tensor:
    """The blocks are disjoint, share their row groups, and cover ``count`` blocks' worth; returns their mask."""
    size = blocks.rows.shape[1]
    assert sorted(blocks.rows.view(-1).tolist()) == list(range(rows)), "every row is in one group"
    assert blocks.groups.tolist() == sorted(blocks.groups.tolist())
    assert blocks.columns.shape == (count, size)
    for group in range(len(blocks.rows)):
        taken = blocks.columns[blocks.groups == group].view(-1).tolist()
        assert len(taken) == len(set(taken)), "columns of a group are disjoint"
    mask = blocks.mask(torch.Size((rows, columns)))
    assert int(mask.sum()) == count * size**2
    return mask


def test_extraction_is_the_reference(vectors: Vectors) -> None:
    case = vectors("dsb_blocks")["extract"][0]
    weight = torch.tensor(case["weight"])
    active = largest(weight.abs(), case["weight_num_active"])
    blocks = extract(active, weight.abs() * active, size=case["block"], count=case["nblocks"])
    mask = check(blocks, case["out"], case["inp"], case["nblocks"])
    assert mask.int().tolist() == case["mask"]
    assert blocks.rows[blocks.groups.long()].tolist() == case["block_rows"]
    assert blocks.columns.tolist() == case["block_cols"]
    assert sorted(sorted(group) for group in blocks.rows.tolist()) == case["row_groups"]
    assert case["max_cover"] == 1 and case["equals_union"]


def test_an_update_is_the_reference(vectors: Vectors) -> None:
    case = vectors("dsb_blocks")["update"][0]
    weight, gradient, before = (torch.tensor(case[key]) for key in ("weight_before", "grad", "mask_before"))
    previous = vectors("dsb_blocks")["extract"][0]
    columns = torch.tensor(previous["block_cols"], dtype=torch.int32)
    blocks = Blocks(torch.tensor(previous["block_rows"]).int(), torch.tensor([0, 1]).int(), columns)
    mask = blocks.mask(weight.shape)
    assert torch.equal(mask, before.bool())

    rate = Cosine(start=case["alpha"], floor=0.0, end=case["T_end"])(case["iteration"])
    assert rate == pytest.approx(case["drop_rate"])
    drop = drop_count(rate, int(mask.sum()), up=False)
    assert drop == case["requested_drop"]
    small = mask & ~largest(weight.abs(), int(mask.sum()) - drop, among=mask)
    moved = drop_and_grow(blocks, weight.abs(), mask, drop_rows_and_columns(small, blocks), gradient.abs())
    after = check(moved, case["out"], case["inp"], 2)
    assert after.int().tolist() == case["mask_after"]
    assert moved.rows[moved.groups.long()].tolist() == case["block_rows"]
    assert moved.columns.tolist() == case["block_cols"]
    assert (int((after & ~mask).sum()), int((mask & ~after).sum())) == (case["newly_active"], case["deactivated"])


def test_the_drop_count_is_of_what_is_active(vectors: Vectors) -> None:
    """The reference takes it of the count before it was rounded up to blocks, and drops the difference too."""
    case = vectors("dsb_blocks")["update"][1]
    assert case["requested_drop"] == 402
    assert drop_count(case["drop_rate"], case["nnz_before"], up=False) == 299


def test_only_lines_of_which_half_is_dropped_leave() -> None:
    """Row counts (2, 1, 0, 0) and column counts (1, 1, 1, 0): the first row's leave."""
    blocks = Blocks(
        torch.tensor([[5, 1, 2, 0], [3, 4, 6, 7]]).int(), torch.tensor([0]).int(), torch.tensor([[7, 0, 4, 2]]).int()
    )
    dropped = torch.zeros(8, 8, dtype=torch.bool)
    dropped[5, 7] = dropped[5, 0] = dropped[1, 4] = True
    assert drop_rows_and_columns(dropped, blocks).nonzero().tolist() == [[5, 0], [5, 7]]
    dropped[2, 4] = True  # now the third column has half
    assert drop_rows_and_columns(dropped, blocks).nonzero().tolist() == [[1, 4], [2, 4], [5, 0], [5, 7]]
    assert not drop_rows_and_columns(torch.zeros(8, 8, dtype=torch.bool), blocks).any()


@given(rows=st.integers(2, 12), columns=st.integers(1, 10), density=st.floats(0, 1), seed=st.integers(0, 999), data=st.data())
def test_clusters_are_those_of_the_cosine_distance(
    rows: int, columns: int, density: float, seed: int, data: st.DataObject
) -> None:
    """As many as asked for, each with the same widest distance as SciPy finds where no two merges tie."""
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density
    clusters = data.draw(st.integers(1, rows))
    labels = cluster_rows(mask, clusters)
    assert labels.shape == (rows,) and len(set(labels.tolist())) == clusters == labels.max() + 1
    active = mask.double().numpy()
    cosines = np.nan_to_num(1 - pdist(active, "cosine"), nan=0.0) if rows > 1 else np.empty(0)
    if len(set(cosines.round(9))) == len(cosines):  # no ties: the tree is unique
        expected = cut_tree(linkage(1 - cosines, "complete"), n_clusters=clusters).reshape(-1)
        together = labels[:, None] == labels
        assert np.array_equal(together, expected[:, None] == expected)


@pytest.mark.parametrize("columns", [1, 255, 300, 600, 4095, 5000])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.9, 1.0])
def test_distances_are_exact_where_several_rows_share_a_product(columns: int, density: float) -> None:
    """Up to as many active entries as just fit, or just do not."""
    mask = torch.rand(13, columns, generator=torch.Generator().manual_seed(0)) < density
    overlap, counts = (mask.double() @ mask.double().T).float(), mask.float().sum(1).clamp(min=1)
    cosines = (overlap.square() / (counts[:, None] * counts)).double().numpy()
    assert np.array_equal(_distances(mask), -cosines[np.triu_indices(13, 1)])


def test_equal_rows_come_together() -> None:
    patterns = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]).bool()
    of_row = torch.tensor([2, 0, 1, 1, 0, 2])
    assert row_groups(patterns[of_row], 2).tolist() == [[0, 5], [1, 4], [2, 3]]


def test_unequal_clusters_are_cut_across_groups_the_largest_first() -> None:
    patterns = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    of_row = torch.tensor([1, 0, 1, 0, 0, 0, 0, 0])
    assert row_groups(patterns[of_row], 4).tolist() == [[1, 3, 4, 5], [6, 7, 0, 2]]


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, int]:
    """Weight and gradient with ties and zeros, block size and number of blocks."""
    size = draw(st.sampled_from([1, 2, 3, 4]))
    groups, runs = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    count = draw(st.integers(1, groups * runs))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    distinct = draw(st.sampled_from([0, 1, 3, 1000]))
    shape = (groups * size, runs * size)
    weight, gradient = torch.randn(shape, generator=draws), torch.randn(shape, generator=draws)
    if distinct < 1000:
        weight, gradient = (weight * distinct).round(), (gradient * distinct).round()
    return weight, gradient, size, count


@given(layers(), st.floats(0, 1), st.integers(0, 255))
@settings(max_examples=150)
def test_counts_are_exact_whatever_ties(layer: tuple[Tensor, Tensor, int, int], rate: float, missing: int) -> None:
    weight, gradient, size, count = layer
    wanted = max(1, count * size**2 - missing % size**2)
    active = largest(weight.abs(), wanted)
    blocks = extract(active, weight.abs() * active, size=size, count=count)
    for _ in range(3):
        mask = check(blocks, *weight.shape, count)
        weight = weight * mask
        drop = drop_count(rate, int(mask.sum()), up=False)
        small = mask & ~largest(weight.abs(), int(mask.sum()) - drop, among=mask)
        dropped = drop_rows_and_columns(small, blocks)
        assert not (dropped & ~small).any()
        assert torch.equal(drop_rows_and_columns(mask, blocks), mask), "all may leave at once"
        blocks = drop_and_grow(blocks, weight.abs(), mask, dropped, gradient.abs())
    check(blocks, *weight.shape, count)


def test_growth_draws_a_block_to_where_the_gradient_is() -> None:
    """The block of small weights gives way to one whose entries have grown, though these are worth the mean at first."""
    weight = torch.zeros(4, 8)
    weight[:2, :2], weight[2:, 2:4] = 4.0, 0.1
    rows = torch.tensor([[0, 1], [2, 3]]).int()
    blocks = Blocks(rows, torch.tensor([0, 1]).int(), torch.tensor([[0, 1], [2, 3]]).int())
    mask = blocks.mask(weight.shape)
    gradient = torch.zeros(4, 8)
    gradient[2:, 6:] = 1.0
    moved = drop_and_grow(blocks, weight, mask, mask & (weight == weight[2, 2]), gradient)
    after = check(moved, 4, 8, 2)
    assert after[:2, :2].all() and after[2:, 6:].all()


@given(layers())
def test_packing_keeps_everything(layer: tuple[Tensor, Tensor, int, int]) -> None:
    weight, _, size, count = layer
    blocks = extract(torch.ones_like(weight, dtype=torch.bool), weight.abs(), size=size, count=count)
    packed = blocks.pack()
    assert (packed.dtype, len(packed)) == (torch.int32, packed_length(len(weight), count, size))
    again = Blocks.unpack(packed, len(weight), size)
    for name in ("rows", "groups", "columns"):
        assert torch.equal(getattr(again, name), getattr(blocks, name))
