"""DSB and SSB: the reference's update with its defects corrected, RigL at block size 0, and the blocks beside the masks."""

import copy
import logging
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import OptimConfig, SchedulerConfig
from dist_sparse.config.sparsity import ShuffledBlockConfig, SparsityConfig, UpdateConfig
from dist_sparse.errors import UserError
from dist_sparse.optim import build_optimizer, build_scheduler
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.resolve import resolve
from dist_sparse.sparsity.methods.shuffled_block.blocks import Blocks
from tests.idle import idle

RUN = RunFacts(seed=0, steps_per_epoch=10, total_steps=1000, rank=0, world_size=1, device=torch.device("cpu"))
EVERY_STEP = UpdateConfig(interval=Length(1, "steps"), drop_fraction=0.5, drop_schedule="constant")


def config(
    size: int = 4, *, dynamic: bool = True, density: float = 0.3, update: UpdateConfig | None = None, **keys
) -> SparsityConfig:
    blocks = ShuffledBlockConfig(size=size, dynamic=dynamic)
    keys = {"distribution": "uniform", "update": update or (EVERY_STEP if dynamic else UpdateConfig()), **keys}
    return SparsityConfig(method="shuffled_block", density=density, shuffled_block=blocks, **keys)


def network() -> nn.Module:
    """A stem too narrow for blocks, two convolutions, and a classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8)),
    )


IN_BLOCKS = ("3.weight", "6.weight")


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)


def network_run(small_run, made: SparsityConfig, **keys):
    model = network()
    return small_run(model, sgd(model), made, **keys)


def step(run, **keys):
    draws = torch.Generator().manual_seed(run.number)
    return run.step(torch.randn(8, 3, 5, 5, generator=draws), torch.randint(8, (8,), generator=draws), **keys)


def masks(run) -> dict[str, Tensor]:
    return {name: run.method.masks[name] for name in run.method.masks.names}


def parts(blocks: Blocks) -> list[list[Any]]:
    return [blocks.rows.tolist(), blocks.groups.tolist(), blocks.columns.tolist()]


def test_an_update_is_the_reference_but_for_values_that_it_loses(small_run, vectors) -> None:
    """What was active stays what it was; the reference zeroes the dropped that come back at once."""
    case, initial = vectors("dsb_blocks")["update"][0], vectors("dsb_blocks")["extract"][0]
    model = nn.Conv2d(8, 8, 1, bias=False)
    model.weight.data.copy_(torch.tensor(initial["weight"])[:, :, None, None])
    update = UpdateConfig(interval=Length(case["iteration"], "steps"), end=Length(case["T_end"], "steps"))
    made = config(case["block"], density=1 - initial["sparsity"], update=update)
    run = small_run(model, sgd(model), made, loss=lambda out, grad: (out.flatten(1) * grad).sum(), total_steps=4000)
    assert run.method.masks["weight"].view(8, 8).int().tolist() == initial["mask"] == case["mask_before"]
    assert torch.equal(model.weight.view(8, 8), torch.tensor(case["weight_before"]))

    run.number = case["iteration"] - 1
    # The layer sees the identity, so that its weight's gradient is what its output is multiplied by.
    assert run.step(torch.eye(8)[:, :, None, None], torch.tensor(case["grad"]).T).skip_optimizer
    after = run.method.masks["weight"].view(8, 8)
    assert after.int().tolist() == case["mask_after"]
    blocks = run.method.blocks["weight"]
    assert blocks.rows[blocks.groups.long()].tolist() == case["block_rows"]
    assert blocks.columns.tolist() == case["block_cols"]
    before = torch.tensor(case["weight_before"])
    assert torch.equal(model.weight.view(8, 8), before * after)
    reset = (torch.tensor(case["weight_after"]) == 0) & after & torch.tensor(case["mask_before"]).bool()
    assert before[reset].count_nonzero() == reset.sum() > 0


def test_block_size_0_is_rigl(small_run, vectors) -> None:
    """In the reference no convolution moves then."""
    assert not vectors("dsb_blocks")["facts"]["block_size_0_conv_mask_changes"]
    update = UpdateConfig(interval=Length(2, "steps"))
    rigl = SparsityConfig(method="rigl", density=0.3, distribution="uniform", update=update)
    runs = [network_run(small_run, made, total_steps=20) for made in (config(0, update=update), rigl)]
    first = masks(runs[0])
    assert resolve(config(0, update=update)).update == resolve(rigl).update
    for _ in range(12):
        assert step(runs[0]) == step(runs[1])
        assert runs[0].method.masks.digest() == runs[1].method.masks.digest()
        for ours, theirs in zip(*(run.engine.model.parameters() for run in runs), strict=True):
            assert torch.equal(ours, theirs)
    assert all(not torch.equal(first[name], mask) for name, mask in masks(runs[0]).items())
    assert runs[0].method.blocks == {}


def test_static_blocks_are_those_of_the_largest_weights_and_rest(small_run) -> None:
    run = network_run(small_run, config(dynamic=False))
    moving = network_run(small_run, config())
    first, blocks = masks(run), {name: parts(each) for name, each in run.method.blocks.items()}
    assert blocks == {name: parts(each) for name, each in moving.method.blocks.items()} and tuple(blocks) == IN_BLOCKS
    assert not any(step(run).updates_masks for _ in range(5))
    assert all(torch.equal(first[name], mask) for name, mask in masks(run).items())
    dense = network().get_parameter("0.weight").detach().abs()
    assert dense[first["0.weight"]].min() > dense[~first["0.weight"]].max(), "without blocks, simply the largest"


def test_blocks_take_more_of_the_weight_than_blocks_of_neighbours(small_run) -> None:
    weight = network().get_parameter("3.weight").detach().abs().view(32, -1)
    mask = network_run(small_run, config(dynamic=False)).method.masks["3.weight"].view(32, -1)
    tiles = weight.view(8, 4, 36, 4).pow(2).sum((1, 3)).flatten()
    aligned = tiles.topk(int(mask.sum()) // 16).values.sum()
    assert weight[mask].pow(2).sum() > aligned


@pytest.mark.parametrize("form", ["original", "itop"])
def test_masks_are_their_blocks_and_the_rest_is_zero(small_run, vectors, form: str) -> None:
    """In the reference 107 of 229 newly active weights hold stray values, and every inactive one has momentum."""
    assert vectors("dsb_blocks")["facts"]["stray_values_64x64"]["newly_active_nonzero_weight"] == 107
    run = network_run(small_run, config(update=UpdateConfig(form=form, interval=Length(2, "steps"), drop_fraction=0.5)))
    active, moved, entered = run.method.masks.active(), set(), 0
    for number in range(1, 13):
        before = masks(run)
        assert step(run).updates_masks == (number % 2 == 0)
        assert run.method.masks.active() == active
        for name, mask in masks(run).items():
            new = mask & ~before[name]
            moved |= {name} if new.any() else set()
            entered += int(new.sum())
            weight = run.engine.weight(name).detach()
            for tensor in (weight, *run.per_weight_state(name).values()):
                assert not tensor[~mask].count_nonzero() and not tensor[new].count_nonzero()
            if name in IN_BLOCKS:
                assert torch.equal(run.method.blocks[name].mask(mask.shape), mask)
    assert moved == set(active) and entered > 100


def test_counts(small_run, caplog: pytest.LogCaptureFixture) -> None:
    """ceil(n / b^2) blocks; what does not fit keeps n weights, and is named."""
    with caplog.at_level(logging.INFO):
        run = network_run(small_run, config(8, density=0.1, dynamic=False))
    assert run.method.masks.active() == {"0.weight": 43, "3.weight": 8 * 64, "6.weight": 64, "9.weight": 13}  # of 461 and 51
    assert [record.getMessage() for record in caplog.records] == [
        "sparsity.shuffled_block.size=8 does not fit 0.weight: unstructured",
        "whole blocks make the density 0.1113 instead of 0.1000",
    ]
    run = network_run(small_run, config(16, density=0.9))
    assert run.method.masks.active()["6.weight"] == 512 and "6.weight" not in run.method.blocks, "two blocks fill it"
    before = masks(run)["6.weight"]
    step(run)
    assert torch.equal(masks(run)["6.weight"], before)
    assert network_run(small_run, config(density=1.0)).method.masks.density() == 1


def test_the_cosine_ends_where_the_updates_do() -> None:
    """The reference stops half-way, at alpha / 2, or has an end that lies behind the run's."""
    plan = plan_method(resolve(config(update=UpdateConfig())), dict(network().named_parameters()), RUN)
    schedule = plan.schedule
    assert (schedule.interval, schedule.end, schedule.drop(0)) == (100, 750, 0.3)
    assert schedule.drop(750) == 0 and schedule.drop(700) < 0.004
    assert [number for number in range(1, 1001) if schedule.due(number - 1, number)] == list(range(100, 701, 100))


def test_the_first_epoch_has_a_rate_and_milestones_count_from_the_start(vectors) -> None:
    """The reference's warm-up starts at 0 and delays the milestones, as its vector shows."""
    wrong = vectors("dsb_blocks")["facts"]["imagenet_lr_by_epoch_changes"]
    assert wrong[1] == [1, 0.0] and [epoch for epoch, _ in wrong[-3:]] == [36, 76, 96]
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(OptimConfig(lr=0.1), model, 256)
    scheduler_config = SchedulerConfig(
        name="multistep",
        warmup=Length(5, "epochs"),
        warmup_lr=0.02,
        milestones=[Length(epoch, "epochs") for epoch in (30, 70, 90)],
    )
    scheduler = build_scheduler(scheduler_config, optimizer, steps_per_epoch=1, total_steps=105)
    rates = []
    for epoch in range(105):
        scheduler.step_update(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert min(rates[:5]) == rates[0] == pytest.approx(0.02)
    assert [epoch for epoch in range(6, 105) if rates[epoch] < rates[epoch - 1] * 0.5] == [30, 70, 90]


def test_state_decides_the_future(small_run) -> None:
    for dynamic in (True, False):
        made = config(dynamic=dynamic, update=UpdateConfig(interval=Length(2, "steps"), drop_fraction=0.5) if dynamic else None)
        first = network_run(small_run, made)
        for _ in range(3):
            step(first)
        second = network_run(small_run, made)
        second.engine.load_state_dict(copy.deepcopy(first.engine.state_dict()))
        second.method.load_state_dict(copy.deepcopy(first.method.state_dict()))
        second.method.start()
        second.number = first.number
        for _ in range(6):
            assert {name: parts(each) for name, each in first.method.blocks.items()} == {
                name: parts(each) for name, each in second.method.blocks.items()
            }
            assert step(first) == step(second)
            assert first.method.masks.digest() == second.method.masks.digest()
            assert torch.equal(first.engine.weight("3.weight"), second.engine.weight("3.weight"))


def test_overflow_moves_nothing_and_the_update_is_made_up_for(small_run) -> None:
    run = network_run(small_run, config(update=UpdateConfig(interval=Length(2, "steps"), drop_fraction=0.5)), precision="fp16")
    step(run)
    before = copy.deepcopy((run.engine.model.state_dict(), run.method.state_dict()))
    blocks, draws = run.method.blocks, torch.randn(8, 3, 5, 5)
    assert not run.step(draws * 1e30, torch.zeros(8, dtype=torch.int64)).updates_masks
    after = (run.engine.model.state_dict(), run.method.state_dict())
    assert run.method.blocks is blocks
    for name in run.method.masks.names:
        assert torch.equal(before[0][name], after[0][name])
        assert torch.equal(before[1]["masks"][name], after[1]["masks"][name])
    assert before[1]["last_step"] == after[1]["last_step"] == 1
    assert step(run).updates_masks and run.method.state_dict()["last_step"] == 3


@given(
    density=st.floats(0.01, 1.0),
    size=st.sampled_from([1, 2, 4, 8, 16]),
    distribution=st.sampled_from(["erk", "uniform"]),
    distinct=st.sampled_from([0, 1, 3, 1000]),
    drop_fraction=st.sampled_from([0.0, 0.3, 1.0]),
    removal=st.sampled_from(["magnitude", "taylor", "set"]),
    growth=st.sampled_from(["gradient", "random", "random_unfired"]),
)
@settings(max_examples=25)
def test_blocks_hold_whatever_ties(
    small_run, density: float, size: int, distribution: str, distinct: int, drop_fraction: float, removal: Any, growth: Any
) -> None:
    update = UpdateConfig(
        interval=Length(1, "steps"), drop_fraction=drop_fraction, drop_schedule="constant", removal=removal, growth=growth
    )
    try:
        run = network_run(small_run, config(size, density=density, distribution=distribution, update=update))
    except UserError:  # a layer without a weight
        return
    active = run.method.masks.active()
    for name, blocks in run.method.blocks.items():
        assert active[name] == len(blocks.columns) * size**2
    for _ in range(4):
        with torch.no_grad():
            for name in active:
                parameter = run.engine.model.get_parameter(name)
                parameter.copy_((parameter * distinct).round() / max(distinct, 1))
        step(run)
        assert run.method.masks.active() == active
        for name, blocks in run.method.blocks.items():
            mask = run.method.masks[name]
            assert int(mask.sum()) == active[name] and torch.equal(blocks.mask(mask.shape), mask)


def test_a_block_that_fits_nothing_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    never = UpdateConfig(interval=Length(5, "steps"), end=Length(1, "steps"))
    with pytest.raises(
        UserError, match=r"size=64 fits no sparse convolution: .* 3\.weight, the largest, has 32, 144 and 16; 0 is"
    ) as found:
        plan_method(resolve(config(64, update=never)), dict(network().named_parameters()), RUN)
    assert "\n" not in str(found.value)
    assert not caplog.records, "the mistake stands alone"
    with pytest.raises(UserError, match="fits no sparse convolution: there is none; 0 is RigL"):
        plan_method(resolve(config(4)), {"fc": torch.ones(16, 16)}, RUN)


def test_keys_without_effect_are_named() -> None:
    reason = "method shuffled_block does not use it"
    static = config(dynamic=False, update=UpdateConfig(interval=Length(5, "steps")))
    assert idle(sparsity=static) == {"sparsity.update.interval": reason}
    shared = config(update=UpdateConfig(redistribution="nonzeros"))
    assert idle(sparsity=shared) == {"sparsity.update.redistribution": reason}
    static = config(dynamic=False, update=UpdateConfig(removal="threshold"))
    assert idle(sparsity=static) == {"sparsity.update.removal": reason}
    with pytest.raises(
        UserError, match=r"structure=nm:2:4 cannot go with sparsity\.method=shuffled_block: it has blocks of its own"
    ):
        resolve(config(structure="nm:2:4"))
