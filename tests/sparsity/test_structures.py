"""Each structure: how it cuts, that it puts together again, how it scores, what it fits, and how it is written."""

import math
import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Size, Tensor

from dist_sparse.sparsity.selection import best_of_all_rows, drop_and_grow, top_k
from dist_sparse.sparsity.structures import (
    NM,
    STRUCTURES,
    Block,
    Channel,
    FanIn,
    Filter,
    Kernel,
    KernelPerFilter,
    Pattern,
    Structure,
    Unstructured,
    parse_structure,
)

SHAPE = Size((8, 4, 3, 3))
COUNTS = {
    Unstructured(): (1, 288, 1),
    Block(4, 1): (1, 72, 4),
    Block(2, 9): (1, 16, 18),
    NM(2, 4): (72, 4, 1),
    NM(1, 2): (144, 2, 1),
    FanIn(): (8, 36, 1),
    Kernel(): (1, 32, 9),
    KernelPerFilter(): (8, 4, 9),
    Channel(): (1, 4, 72),
    Filter(): (1, 8, 36),
}
CHOOSING = {Pattern(): (8, 4, 4)}
"""Units that choose which of their weights they hold; the rest of what is true of them is in test_pattern.py."""


def label(structure: Structure) -> str:
    return repr(structure) if isinstance(structure, Block | NM) else structure.name


@pytest.fixture(params=COUNTS, ids=label)
def structure(request: pytest.FixtureRequest) -> Structure:
    return request.param


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prune(structure: Structure, weight: Tensor, keep: int) -> Tensor:
    """The mask of the ``keep`` units of largest norm in every selection set."""
    score = structure.score(weight.abs())
    k = torch.full((len(score),), keep)
    chosen = top_k(score, k, torch.ones_like(score, dtype=torch.bool))
    return structure.mask(chosen, weight.shape, choose_by=weight.abs())


def test_every_structure_is_tested_here() -> None:
    assert {type(structure) for structure in COUNTS | CHOOSING} == set(STRUCTURES.values())


def test_counts(structure: Structure) -> None:
    assert structure.counts(SHAPE) == COUNTS[structure]


def test_merge_undoes_split(structure: Structure) -> None:
    weight = noise(*SHAPE)
    assert torch.equal(structure.merge(structure.split(weight), SHAPE), weight)
    channels_last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(structure.split(channels_last), structure.split(weight))


def test_score_is_the_norm_of_each_unit(structure: Structure) -> None:
    magnitude = noise(*SHAPE).abs()
    score = structure.score(magnitude)
    assert score.shape == COUNTS[structure][:2]
    torch.testing.assert_close(score, structure.split(magnitude).square().sum(2).sqrt())


WEIGHT = torch.tensor([[3.0, 4.0, 0.0, 1.0], [0.0, 0.0, 12.0, 0.0]])
SCORES = {
    Unstructured(): [[3, 4, 0, 1, 0, 0, 12, 0]],
    Block(2, 1): [[3, 4, 12, 1]],
    Block(1, 2): [[5, 1, 0, 12]],
    NM(1, 2): [[3, 4], [0, 1], [0, 0], [12, 0]],
    FanIn(): [[3, 4, 0, 1], [0, 0, 12, 0]],
    Kernel(): [[3, 4, 0, 1, 0, 0, 12, 0]],
    KernelPerFilter(): [[3, 4, 0, 1], [0, 0, 12, 0]],
    Channel(): [[3, 4, 12, 1]],
    Filter(): [[26**0.5, 12]],
}


@pytest.mark.parametrize("structure", SCORES, ids=label)
def test_scores_of_a_linear_layer_by_hand(structure: Structure) -> None:
    torch.testing.assert_close(structure.score(WEIGHT), torch.tensor(SCORES[structure], dtype=torch.float32))


CONV = torch.tensor([[[3.0, 4.0], [0.0, 5.0]], [[0.0, 12.0], [0.0, 0.0]]])
"""[O, I, k] = [2, 2, 2]."""
CONV_SCORES = {
    Block(2, 1): [[3, (4**2 + 12**2) ** 0.5, 0, 5]],
    NM(1, 2): [[3, 0], [4, 5], [0, 0], [12, 0]],
    FanIn(): [[3, 4, 0, 5], [0, 12, 0, 0]],
    Kernel(): [[5, 5, 12, 0]],
    KernelPerFilter(): [[5, 5], [12, 0]],
    Channel(): [[13, 5]],
    Filter(): [[50**0.5, 12]],
}


@pytest.mark.parametrize("structure", CONV_SCORES, ids=label)
def test_scores_of_a_convolution_by_hand(structure: Structure) -> None:
    torch.testing.assert_close(structure.score(CONV), torch.tensor(CONV_SCORES[structure], dtype=torch.float32))


def test_mask_and_active_undo_each_other(structure: Structure) -> None:
    sets, units, size = structure.counts(SHAPE)
    active = noise(sets, units) > 0
    mask = structure.mask(active, SHAPE)
    assert mask.shape == SHAPE and mask.dtype == torch.bool
    assert int(mask.sum()) == int(active.sum()) * size
    assert torch.equal(structure.active(mask), active)


@pytest.mark.parametrize("shape", [(4, 36), (4, 4, 9), (8, 4, 3, 3), (4, 8, 3, 3, 1)], ids=str)
def test_every_weight_shape(structure: Structure, shape: tuple[int, ...]) -> None:
    assert structure.misfit(Size(shape)) is None
    assert math.prod(structure.counts(Size(shape))) == math.prod(shape)
    weight = noise(*shape)
    assert torch.equal(structure.merge(structure.split(weight), Size(shape)), weight)


@pytest.mark.parametrize(
    ("structure", "shape", "reason"),
    [
        (Block(4, 1), (10, 16), "10 output filters do not divide by 4"),
        (Block(16, 16), (8, 16), "8 output filters do not divide by 16"),
        (Block(2, 2), (10, 3, 3, 3), "27 columns (inputs x kernel) do not divide by 2"),
        (NM(2, 4), (64, 3, 7, 7), "3 input channels do not divide by 4"),
        (NM(1, 8), (10, 12), "12 input channels do not divide by 8"),
        (Channel(), (16, 1, 3, 3), "it has a single input channel"),
    ],
    ids=str,
)
def test_a_misfit_says_why(structure: Structure, shape: tuple[int, ...], reason: str) -> None:
    assert structure.misfit(Size(shape)) == reason


@given(st.integers(0, 2**31), st.sampled_from([*COUNTS, *CHOOSING]), st.sampled_from([1, 2, 1000]), st.booleans(), st.data())
def test_units_are_conserved(seed: int, structure: Structure, distinct: int, still: bool, data: st.DataObject) -> None:
    """In every selection set, at any density from no unit to all, with ties, and with gradients that are all zero."""
    sets, units, size = structure.counts(SHAPE)
    kept = data.draw(st.sampled_from([0, 1, units - 1, units]) | st.integers(1, units), label="active units in a set")
    weight = (noise(*SHAPE, seed=seed) * distinct).round() / distinct
    mask = prune(structure, noise(*SHAPE, seed=seed + 1), kept)
    active = structure.active(mask)
    assert active.sum(1).tolist() == [kept] * sets
    gradient = torch.zeros(SHAPE) if still else (noise(*SHAPE, seed=seed + 2) * distinct).round()
    count = data.draw(st.integers(0, sets * kept), label="units to drop")
    keep_score, grow_score = structure.score((weight * mask).abs()), structure.score(gradient.abs())
    stay = best_of_all_rows(keep_score, sets * kept - count, active)
    assert int(stay.sum()) == sets * kept - count
    units_after = drop_and_grow(active, stay, grow_score)
    after = structure.mask(units_after, SHAPE, before=mask, choose_by=gradient.abs())
    assert structure.active(after).sum(1).tolist() == [kept] * sets
    assert int(after.sum()) == sets * kept * size
    assert torch.equal(structure.mask(structure.active(after), SHAPE, before=after), after), "only whole units"


@pytest.mark.parametrize("text", [cls.example for cls in STRUCTURES.values()])
def test_examples_are_understood(text: str) -> None:
    structure = parse_structure(text)
    assert isinstance(structure, STRUCTURES[text.partition(":")[0]])
    assert structure.density == {"nm:2:4": 0.5}.get(text)


def test_sizes_are_understood() -> None:
    assert parse_structure("block:1x16") == Block(rows=1, columns=16)
    assert parse_structure("nm:1:8") == NM(n=1, m=8)
    assert parse_structure("nm:1:8").density == 0.125


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blok:4x1", "'blok:4x1' is unknown; did you mean block? known: unstructured, block:ROWSxCOLUMNS, nm:N:M,"),
        ("2:4", "'2:4' is unknown; known: unstructured"),
        ("", "'' is unknown; known: unstructured"),
        ("block", "'block': a block has two sides, whole numbers of 1 or more; it is written block:ROWSxCOLUMNS, such"),
        ("block:4", "'block:4': a block has two sides"),
        ("block:0x4", "'block:0x4': a block has two sides"),
        ("block:4x-1", "'block:4x-1': a block has two sides"),
        ("block:1x1", "'block:1x1': a block of one weight is structure unstructured"),
        ("nm", "'nm': N and M are whole numbers, N at least 1 and M more than N; it is written nm:N:M, such as nm:2:4"),
        ("nm:4:4", "'nm:4:4': N and M are whole numbers, N at least 1 and M more than N"),
        ("nm:0:4", "'nm:0:4': N and M"),
        ("filter:2", "'filter:2': nothing may follow the name; it is written filter"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_says_how_it_is_written(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        parse_structure(text)


Vectors = Callable[[str], dict[str, Any]]


def test_blocks_of_mest(vectors: Vectors) -> None:
    """Where the percentile rule of MEST's code keeps as many blocks as were asked for, the masks are the same."""
    case = vectors("mest_03_block4x1_prune")
    weight = torch.tensor(case["input"])
    structure = parse_structure("block:4x1")
    torch.testing.assert_close(structure.score(weight.abs()).view(2, 4), torch.tensor(case["block_l2"]))
    for expected in case["cases"]:
        exact = round((1 - expected["ratio"]) * 8)
        assert exact == expected["kept_blocks"], "no correction is needed in this file"
        assert prune(structure, weight, exact).int().tolist() == expected["mask"]


def test_blocks_that_tie_or_cancel_keep_an_exact_count() -> None:
    """MEST's percentile drops all that tie with it, and its sums take entries that cancel for an empty block."""
    weight = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]).repeat(2, 4)
    mask = prune(Block(4, 1), weight, 3)
    assert Block(4, 1).active(mask).tolist() == [[True] * 3 + [False] * 5]


def test_channels(vectors: Vectors) -> None:
    case = vectors("mest_15_channel_expected")
    weight = torch.tensor(case["input"])
    torch.testing.assert_close(Channel().score(weight.abs()), torch.tensor([case["channel_l2"]]))
    keep = prune(Channel(), weight, 2)
    assert keep.all(3).all(2).all(0).int().tolist() == case["keep"]
    assert int(keep.sum()) == weight.numel() // 2


def test_n_of_m(vectors: Vectors) -> None:
    case = vectors("ast_06_nm_mask")
    linear, pointwise = torch.tensor(case["linear"]), torch.tensor(case["conv_1x1"])
    for expected in case["cases"]:
        structure = parse_structure(f"nm:{expected['nm']}")
        assert isinstance(structure, NM)
        assert prune(structure, linear, structure.n).int().tolist() == expected["linear_mask"]
        assert prune(structure, pointwise[:, :, None, None], structure.n).view(2, 8).int().tolist() == expected["conv_mask"]
    conv = torch.tensor(case["conv_2x2_input"])
    assert prune(NM(2, 4), conv, 2).int().tolist() == case["conv_2x2_mask_2_4"]
