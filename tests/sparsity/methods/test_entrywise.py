"""Dropping and growing by entries of tensors, against the same with whole tensors."""

import hypothesis.strategies as st
import torch
from hypothesis import given

from dist_sparse.sparsity import scores
from dist_sparse.sparsity.entries import Entries
from dist_sparse.sparsity.methods.drop_grow.entrywise import grow_by_magnitude, kept_by_magnitude
from dist_sparse.sparsity.methods.drop_grow.removal import removal
from dist_sparse.sparsity.selection import at_least_top_k, drop_and_grow
from dist_sparse.sparsity.structures import Unstructured
from dist_sparse.sparsity.tensors import where_true

LAYERS = st.tuples(st.integers(1, 400), st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 2**31))


def with_ties(size: int, draws: torch.Generator) -> torch.Tensor:
    return torch.randint(-4, 5, (size,), generator=draws).float()


@given(LAYERS)
def test_the_same_stay_and_the_same_grow(layer: tuple[int, float, float, bool, int]) -> None:
    size, density, fraction, round_up, seed = layer
    draws = torch.Generator().manual_seed(seed)
    active = (torch.rand(size, generator=draws) < density)[None]
    weight = with_ties(size, draws) * active[0]
    expected = removal("magnitude", Unstructured(), weight, active, fraction, round_up=round_up)
    positions = where_true(active).int()
    held = Entries(weight.shape, positions, weight.index_select(0, positions))
    kept = kept_by_magnitude(held, fraction, round_up=round_up)
    assert torch.equal(kept, expected)

    gradient = with_ties(size, draws)
    score = scores.magnitude(gradient)[None]
    dropped = int(active.sum() - kept.sum())
    entries = Entries.of(gradient, (active | at_least_top_k(score, dropped, among=~active))[0])
    grown = grow_by_magnitude(active, kept, entries)
    if grown is not None:
        assert torch.equal(grown, drop_and_grow(active, kept, score))
    else:  # of those that are not 0 there are too few
        assert int(((score > 0) & ~kept).sum()) < dropped


def test_nothing_is_said_of_entries_that_are_left_out() -> None:
    active = torch.tensor([[True, True, False, False]])
    kept = torch.tensor([[True, False, False, False]])
    assert grow_by_magnitude(active, kept, Entries(torch.Size([4]), torch.tensor([0]), torch.tensor([5.0]))) is None
