"""The [S, U] protocol: that another structure is one class, shown by three that the package does not have yet."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from dist_sparse.sparsity.selection import drop_and_grow
from dist_sparse.sparsity.structures import Structure, Unstructured


class Filter(Structure):
    """Whole output channels compete in one set: (1, O)."""

    name = "filter"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, tensor.shape[0], -1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


class FanIn(Structure):
    """The weights of one output channel compete among themselves: (O, I * kh * kw)."""

    name = "fan_in"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), -1, 1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


class Block(Structure):
    """2 x 2 squares of output and input channels of the flattened weight compete in one set."""

    name = "block"

    def split(self, tensor: Tensor) -> Tensor:
        rows, columns = len(tensor), tensor[0].numel()
        blocks = tensor.reshape(rows // 2, 2, columns // 2, 2).transpose(1, 2)
        return blocks.reshape(1, -1, 4)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        rows, columns = shape[0], shape.numel() // shape[0]
        blocks = units.reshape(rows // 2, columns // 2, 2, 2).transpose(1, 2)
        return blocks.reshape(shape)

    def misfit(self, shape: torch.Size) -> str | None:
        return "needs even sides" if shape[0] % 2 or (shape.numel() // shape[0]) % 2 else None


COUNTS = {Unstructured: (1, 432, 1), Filter: (1, 6, 72), FanIn: (6, 72, 1), Block: (1, 108, 4)}
SHAPE = torch.Size((6, 8, 3, 3))


@pytest.fixture(params=COUNTS, ids=lambda cls: cls.name)
def structure(request: pytest.FixtureRequest) -> Structure:
    return request.param()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_counts(structure: Structure) -> None:
    assert structure.counts(SHAPE) == COUNTS[type(structure)]


def test_merge_undoes_split(structure: Structure) -> None:
    weight = noise(*SHAPE)
    assert torch.equal(structure.merge(structure.split(weight), SHAPE), weight)
    channels_last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(structure.split(channels_last), structure.split(weight))


def test_score_is_the_norm_of_each_unit(structure: Structure) -> None:
    magnitude = noise(*SHAPE).abs()
    score = structure.score(magnitude)
    assert score.shape == COUNTS[type(structure)][:2]
    torch.testing.assert_close(score, structure.split(magnitude).square().sum(2).sqrt())


def test_scores_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert Filter().score(weight).tolist() == [[5.0, 0.0]]
    assert Block().score(weight).tolist() == [[5.0]]
    assert FanIn().score(weight).tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert Unstructured().score(weight).tolist() == [[3.0, 4.0, 0.0, 0.0]]


def test_mask_and_active_undo_each_other(structure: Structure) -> None:
    sets, units, size = structure.counts(SHAPE)
    active = noise(sets, units) > 0
    mask = structure.mask(active, SHAPE)
    assert mask.shape == SHAPE and mask.dtype == torch.bool
    assert int(mask.sum()) == int(active.sum()) * size
    assert torch.equal(structure.active(mask), active)


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3), (2, 4, 3, 3), (2, 2, 3, 1, 2)])
def test_every_weight_shape(structure: Structure, shape: tuple[int, ...]) -> None:
    sets, units, size = structure.counts(torch.Size(shape))
    assert structure.misfit(torch.Size(shape)) is None
    assert sets * units * size == math.prod(shape)
    assert structure.mask(torch.ones(sets, units, dtype=torch.bool), torch.Size(shape)).all()


@given(st.integers(0, 2**31), st.data())
def test_units_are_conserved(seed: int, data: st.DataObject) -> None:
    structure = data.draw(st.sampled_from([cls() for cls in COUNTS]))
    sets, units, _ = structure.counts(SHAPE)
    active = noise(sets, units, seed=seed) > 0
    drop = torch.tensor([data.draw(st.integers(0, count)) for count in active.sum(1).tolist()])
    keep, grow = structure.score(noise(*SHAPE, seed=1).abs()), structure.score(noise(*SHAPE, seed=2).abs())
    mask = structure.mask(drop_and_grow(active, keep, grow, drop), SHAPE)
    assert structure.active(mask).sum(1).tolist() == active.sum(1).tolist()
    assert torch.equal(structure.mask(structure.active(mask), SHAPE), mask), "only whole units"
