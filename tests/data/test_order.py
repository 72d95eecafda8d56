"""Which samples a step takes does not depend on how many ranks share it."""

from itertools import chain

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from dist_sparse.data.batch import Loading
from dist_sparse.data.order import BatchPlan, validation_share
from dist_sparse.errors import UserError


def plan(size=100, batch_size=8, accumulation=1, rank=0, world_size=1, seed=0, repeats=1) -> BatchPlan:
    loading = Loading(
        batch_size=batch_size,
        accumulation=accumulation,
        eval_batch_size=1,
        rank=rank,
        world_size=world_size,
        device=torch.device("cpu"),
        seed=seed,
    )
    return BatchPlan("set", size, loading, repeats)


@given(
    size=st.integers(1, 300),
    share=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_ranks_share_out_the_batches_of_a_single_rank(size, share, accumulation, world_size, epoch):
    batch_size = share * accumulation * world_size
    assume(size >= batch_size)
    ranks = [plan(size, batch_size, accumulation, rank, world_size) for rank in range(world_size)]
    alone = list(plan(size, batch_size).steps(epoch))
    assert len(alone) == size // batch_size
    seen = torch.cat([step.positions for step in alone])
    assert len(seen.unique()) == len(seen)
    rows = torch.arange(batch_size)
    micro_batches = [torch.cat([rows[rank.shares[a]] for rank in ranks]) for a in range(accumulation)]
    assert torch.equal(torch.cat(micro_batches), rows)
    for rank in ranks:
        for step, same in zip(rank.steps(epoch), alone, strict=True):
            assert step.number == same.number
            assert torch.equal(step.positions, same.positions)


def test_order_changes_with_epoch_and_seed_only():
    first = next(plan().steps(0)).positions
    assert torch.equal(first, next(plan().steps(0)).positions)
    assert not torch.equal(first, next(plan().steps(1)).positions)
    assert not torch.equal(first, next(plan(seed=1).steps(0)).positions)


def test_start_step_goes_on_where_an_epoch_stopped():
    whole, rest = list(plan().steps(2)), list(plan().steps(2, start_step=5))
    assert [step.number for step in rest] == list(range(5, 12))
    assert all(torch.equal(a.positions, b.positions) for a, b in zip(whole[5:], rest, strict=True))
    assert list(plan().steps(2, start_step=12)) == []


def test_an_epoch_among_some_positions_is_shorter_and_draws_from_them_alone():
    among = torch.arange(0, 100, 3)
    steps = [step.positions for step in plan().steps(1, among=among)]
    assert len(steps) == len(among) // 8
    drawn = torch.cat(steps)
    assert len(drawn.unique()) == len(drawn) and torch.isin(drawn, among).all()
    rest = [step.positions for step in plan().steps(1, start_step=2, among=among)]
    assert all(torch.equal(a, b) for a, b in zip(steps[2:], rest, strict=True))


@given(size=st.integers(8, 200), batch=st.integers(1, 8), repeats=st.integers(1, 4), start=st.integers(0, 3))
def test_repeats_follow_the_sampler_of_deit(size, batch, repeats, start):
    """An epoch's views, batch by batch, are those of timm's sampler on as many ranks as the batch has samples."""
    sampler = RepeatAugSampler(range(size), batch, 0, shuffle=False, num_repeats=repeats, selected_round=0)
    once = torch.cat([step.positions for step in plan(size, 1, repeats=1).steps(2)])
    views = []
    for rank in range(batch):
        sampler.rank = rank
        views.append(once[torch.tensor(list(sampler))])
    steps = list(plan(size, batch, repeats=repeats).steps(2))
    assert len(steps) == size // batch
    for step in steps:
        same = torch.stack([view[step.number] for view in views])
        assert torch.equal(step.positions.sort().values, same.sort().values)
        assert torch.equal(step.repeats, step.repeats.sort().values)
    shown = [key for step in steps for key in step.keys(2, slice(None))]
    assert len({*shown}) == len(shown)
    assert max(key.repeat for key in shown) <= repeats - 1
    start = min(start, len(steps))
    rest = [key for step in plan(size, batch, repeats=repeats).steps(2, start) for key in step.keys(2, slice(None))]
    assert rest == shown[start * batch :]


def test_ranks_see_different_samples_where_there_are_as_many_as_repeats():
    ranks = [plan(300, 30, rank=rank, world_size=3, repeats=3) for rank in range(3)]
    for step in ranks[0].steps(0):
        assert all(len(step.positions[rank.shares[0]].unique()) == 10 for rank in ranks)
        assert len(step.positions.unique()) == 10


@given(size=st.integers(0, 50), world_size=st.integers(1, 8))
def test_validation_sees_every_sample_once(size, world_size):
    shares = [
        validation_share(size, plan(rank=rank, batch_size=world_size, world_size=world_size).loading)
        for rank in range(world_size)
    ]
    assert sorted(chain(*shares)) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"batch_size": 100, "world_size": 4, "accumulation": 2},
            "train.batch_size=100 does not divide by 4 ranks x 2 accumulation steps; 96 or 104 would",
        ),
        ({"batch_size": 3, "world_size": 4}, "train.batch_size=3 does not divide by 4 ranks x 1 accumulation steps; 4 would"),
        ({"batch_size": 128}, "train.batch_size=128 is more than the 100 training samples of set; 100 would do"),
        (
            {"size": 5, "batch_size": 8, "world_size": 8},
            "train.batch_size=8 is more than the 5 training samples of set; fewer ranks or accumulation steps would do",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_one_clear_line(keys, message):
    with pytest.raises(UserError) as error:
        plan(**keys)
    assert str(error.value) == message
