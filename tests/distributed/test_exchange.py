"""Exchanging the gradients of active weights only gives what the dense exchange gives, and sends no element more than those."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command import metrics
from tests.distributed import cases, exchanges
from tests.distributed.world import World
from tests.values import LOGGED, TINY_VIT

RUN = {
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {**TINY_VIT, "depth": 1},
    "train.epochs": 2,
    "train.batch_size": 256,
    "optim.lr": 0.05,
    "sparsity.density": 0.2,
    "sparsity.keep_dense": ["first", "last"],
}
"""10 steps."""
EVERY_THIRD = {"sparsity.update.interval": "3 steps", "sparsity.update.form": "itop"}
RAMP = {"sparsity.update.interval": "3 steps", "sparsity.ramp.end": "6 steps"}
NM = {"sparsity.density": 0.25, "sparsity.structure": "nm:1:4"}
LADDER = {**EVERY_THIRD, "sparsity.ast.densities": [0.4, 0.2], "sparsity.density": None, "sparsity.ramp.end": "6 steps"}
del LADDER["sparsity.update.form"]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "keys",
    [{}, {"channels_last": True}, {"precision": "bf16", "accumulation": 2}, {"channels_last": True, "exchange": "auto"}],
    ids=str,
)
def test_it_is_the_dense_exchange_without_the_inactive_weights(
    worlds: Callable[[int], World], size: int, keys: dict[str, Any]
) -> None:
    ranks = worlds(size).run(exchanges.side_by_side, **keys)
    for step in (step for steps in ranks for step in steps):
        assert step.difference <= (0 if size == 2 else 5e-7)
        assert step.same
        assert step.sent == step.expected
    for number, step in enumerate(ranks[0]):
        assert (step.inactive > 0) == (number == exchanges.DENSE_STEP)


@pytest.mark.parametrize(("exchange", "density"), [("masked", 0.1), ("dense", 1.0)])
def test_bf16_on_the_wire_rounds_and_no_more(worlds: Callable[[int], World], exchange: str, density: float) -> None:
    for steps in worlds(4).run(exchanges.side_by_side, density, exchange=exchange, compress="bf16"):
        for step in steps:
            assert 1e-5 < step.difference < 2e-2
            assert step.same
            assert step.sent == step.expected


def test_auto_sends_whole_what_is_hardly_sparse(worlds: Callable[[int], World]) -> None:
    (step, *_), _ = worlds(2).run(exchanges.side_by_side, 0.8, exchange="auto")
    assert step.sent > step.expected
    assert step.inactive > 0, "the method zeroes what the exchange leaves"


def test_an_overflow_of_inactive_weights_is_none(worlds: Callable[[int], World]) -> None:
    assert worlds(2).run(exchanges.overflow_off_the_mask, "masked") == [(False, 0)] * 2
    assert worlds(2).run(exchanges.overflow_off_the_mask, "dense") == [(True, 3)] * 2


@pytest.mark.parametrize(
    ("values", "masked"),
    [
        ({"sparsity.method": "static"}, True),
        ({"sparsity.method": "static", "sparsity.init": "snip"}, True),
        ({"sparsity.method": "set", **EVERY_THIRD}, True),
        ({"sparsity.method": "set", **EVERY_THIRD, "sparsity.update.removal": "taylor"}, True),
        ({"sparsity.method": "rigl", **EVERY_THIRD}, True),
        ({"sparsity.method": "rigl", **EVERY_THIRD, "sparsity.update.form": "original"}, True),
        ({"sparsity.method": "rigl", **EVERY_THIRD, "sparsity.update.gradient_steps": 3}, True),
        ({"sparsity.method": "rigl", **EVERY_THIRD, "train.precision": "fp16", "train.accumulation": 2}, True),
        ({"sparsity.method": "rigl", "sparsity.update.interval": "3 steps", "sparsity.update.growth": "momentum"}, False),
        ({"sparsity.method": "snfs", "sparsity.update.interval": "3 steps"}, False),
        ({"sparsity.method": "granet", **RAMP}, True),
        ({"sparsity.method": "granet_uniform", **RAMP, "train.ema": 0.8}, True),
        ({"sparsity.method": "gmp", **RAMP}, True),
        ({"sparsity.method": "mest", "sparsity.update.interval": "3 steps", "sparsity.mest.removal_gradient": 0.1}, True),
        ({"sparsity.method": "shuffled_block", "sparsity.shuffled_block.size": 0, "sparsity.update.interval": "3 steps"}, True),
        ({"sparsity.method": "srste", **NM}, False),
        ({"sparsity.method": "ast", **LADDER, "sparsity.ast.correction": "whole"}, True),
        ({"sparsity.method": "ast", **LADDER, "sparsity.ast.correction": "within_mask"}, True),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_every_method_trains_as_with_the_dense_exchange(
    worlds: Callable[[int], World], tmp_path: Path, values: dict[str, Any], masked: bool
) -> None:
    """Masks at every update, and losses bit for bit: whatever a method makes of a gradient has been sent."""
    runs = {
        exchange: worlds(2).run(exchanges.train, {**RUN, **values, "engine.exchange": exchange}, str(tmp_path / exchange))
        for exchange in ("dense", "masked")
    }
    for (dense, whole), (packed, share) in zip(*runs.values(), strict=True):
        assert whole == 1
        assert (share < 0.9) == masked
        assert packed.final == dense.final
        assert packed.digests == dense.digests
        assert packed.losses == dense.losses


def test_a_compiled_network_exchanges_no_more(worlds: Callable[[int], World], tmp_path: Path) -> None:
    values = {**RUN, **EVERY_THIRD, "sparsity.method": "rigl"}
    dense = worlds(2).run(exchanges.train, {**values, "engine.exchange": "dense"}, str(tmp_path / "dense"))
    keys = {"engine.exchange": "masked", "train.compile": True}
    compiled = worlds(2).run(exchanges.train, {**values, **keys}, str(tmp_path / "compiled"))
    for (plain, _), (ours, share) in zip(dense, compiled, strict=True):
        assert share < 0.9
        assert ours.final == plain.final
        assert list(ours.losses.values()) == pytest.approx(list(plain.losses.values()), abs=1e-5)


def test_a_resumed_run_equals_the_uninterrupted_one(worlds: Callable[[int], World], tmp_path: Path) -> None:
    values = {
        **RUN,
        **LOGGED,
        **EVERY_THIRD,
        "sparsity.method": "rigl",
        "checkpoint.every": "2 steps",
        "engine.exchange": "masked",
        "resume": "auto",
    }
    whole, parts = {**values, "output": tmp_path / "whole"}, {**values, "output": tmp_path / "parts"}
    assert [outcome.code for outcome in worlds(2).run(cases.command, whole)] == [0, 0]
    assert [outcome.code for outcome in worlds(2).run(cases.command, parts, interrupt_after=7)] == [130, 130]
    first, other = worlds(2).run(cases.command, parts)
    assert (first.code, other.code) == (0, 0)
    assert "gradients exchanged in a step: of active weights, 1,393 of 3,850 (36.2%)" in first.out
    assert "going on after step 6 of" in first.out
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
