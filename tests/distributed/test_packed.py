"""Packed weights train as masked ones do: the same masks and, in double precision, losses, on any number of ranks."""

import signal
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_sparse.execution.kernels import kernels
from tests.command import metrics, words
from tests.distributed import cases, dies_in_update, exchanges, forks
from tests.distributed.test_deepspeed import zero
from tests.distributed.test_every_method import KEYS, SHORT
from tests.distributed.test_masks import SHUFFLED, SIZES
from tests.distributed.test_resume import RUN, goes_on_as_if_nothing_had_been
from tests.distributed.world import World

Worlds = Callable[[int], World]
PACKED = {"execution.storage": "packed"}
NEEDS_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")
SPARSE = {"sparsity.density": 0.3, "sparsity.distribution": "uniform"}


@pytest.fixture(autouse=True, scope="module")
def compiled_once() -> None:
    """So that ranks find them in the cache."""
    kernels()


ON_FOUR = {"rigl", "mest-sparse-average", "gmp-sparse-accumulation-clipping-average", "shuffled-blocks"}
"""One of each kind of update, on 1, 2 and 4 ranks; the rest are on 1 and 2."""


def runs() -> list[Any]:
    methods = [name for name in KEYS if name != "top_kast"]
    of_methods = {name: {**SHORT, **SPARSE, **KEYS[name], "sparsity.method": name} for name in methods}
    for name in ("granet", "gmp"):
        of_methods[name].pop("sparsity.distribution")
    rigl, mest, gmp = (of_methods[name] for name in ("rigl", "mest", "gmp"))
    sparse: dict[str, Any] = {"execution.compute": "sparse"}
    together = {"train.accumulation": 2, "train.clip_norm": 1.0, "train.ema": 0.9}
    named = {
        **{name: {**values, "execution.compute": "dense"} for name, values in of_methods.items()},
        "rigl-blocks": {**rigl, **sparse, "sparsity.structure": "block:4x1"},
        "mest-sparse-average": {**mest, **sparse, "train.ema": 0.9},
        "gmp-sparse-accumulation-clipping-average": {**gmp, **sparse, **together},
        "rigl-accumulation": {**rigl, "train.accumulation": 4},
        "rigl-gradients-of-two-steps": {**rigl, "sparsity.update.gradient_steps": 2, "train.accumulation": 2},
        "mest-by-gradient-adamw": {**mest, "sparsity.mest.removal_gradient": 0.1, "optim.name": "adamw"},
        "shuffled-blocks": {**SHORT, **SPARSE, **SHUFFLED},
    }
    assert named.keys() > ON_FOUR
    return [pytest.param(values, SIZES if name in ON_FOUR else SIZES[:2], id=name) for name, values in named.items()]


@pytest.mark.parametrize(("values", "sizes"), runs())
def test_masks_and_losses_are_those_of_masked_weights(
    worlds: Worlds, tmp_path: Path, values: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    masked = worlds(1).run(cases.train, values, str(tmp_path / "masked"))[0]
    for size in sizes:
        for trained in worlds(size).run(cases.train, {**values, **PACKED}, str(tmp_path / str(size))):
            assert trained.initial == masked.initial
            assert trained.digests == masked.digests
            for column in ("train/loss", "val/loss", "val/ema_loss"):
                assert trained.column(column) == pytest.approx(masked.column(column), rel=1e-9)


@pytest.mark.parametrize("engine", [{}, pytest.param(zero(2), marks=NEEDS_DEEPSPEED)], ids=["ddp", "deepspeed"])
def test_between_micro_batches_a_rank_holds_whole_gradients_of_its_own_layers(
    worlds: Worlds, tmp_path: Path, engine: dict[str, Any]
) -> None:
    values = {**RUN, **PACKED, **engine, "sparsity.update.form": "itop", "sparsity.update.interval": "1 steps"}
    ranks = worlds(2).run(exchanges.whole_gradients_held, values, str(tmp_path))
    for owned, held in ranks:
        assert owned and [sorted(names) for names in held] == [sorted(owned)] * 2
    assert not {*ranks[0][0]} & {*ranks[1][0]}


def test_they_are_those_of_masked_weights(worlds: Worlds, tmp_path: Path) -> None:
    values = {**RUN, "sparsity.update.form": "itop", "sparsity.update.interval": "1 steps", "train.precision": "fp64"}
    values["model.kwargs"] = {**RUN["model.kwargs"], "zero_init_last": False}  # or branches have no gradients yet
    masked, packed = (
        worlds(2).run(exchanges.largest_inactive_gradients, {**values, **keys}, str(tmp_path / str(len(keys))))
        for keys in ({}, PACKED)
    )
    assert sum(min(largest) > 0 for of_masked in masked for largest in of_masked.values()) > 1
    for of_masked, of_packed in zip(masked, packed, strict=True):
        assert of_packed.keys() == of_masked.keys()
        for name, largest in of_masked.items():
            assert of_packed[name] == pytest.approx(largest, rel=1e-9)


@pytest.mark.parametrize("method", ["rigl", "gmp"])
@pytest.mark.parametrize("size", [1, 3])
def test_runs_go_on_bit_for_bit(worlds: Worlds, tmp_path: Path, size: int, method: str) -> None:
    values = {**RUN, **PACKED, "sparsity.method": method, "train.ema": 0.9}
    goes_on_as_if_nothing_had_been(worlds(size), tmp_path, values, kills=(2, 8))


def test_a_rank_that_is_killed_in_an_update_loses_nothing(tmp_path: Path) -> None:
    values = {**RUN, **PACKED, "train.ema": 0.9}
    whole, parts = (words({**values, "output": tmp_path / name}) for name in ("whole", "parts"))
    assert [rank.code for rank in forks.live(2, dies_in_update.main, whole, False, folder=tmp_path)] == [0, 0]
    left, dead = forks.live(2, dies_in_update.main, parts, True, folder=tmp_path)
    assert (left.code, dead.code) == (1, -signal.SIGKILL), left.said
    ended = forks.live(2, dies_in_update.main, parts, False, folder=tmp_path)
    assert [rank.code for rank in ended] == [0, 0], ended[0].said
    assert "going on after step 5 of 11" in ended[0].said
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    states = [torch.load(tmp_path / run / "checkpoints" / "step_00000011.pt") for run in ("parts", "whole")]
    for part in ("state_dict", "state_dict_ema", "optimizer"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)


def test_the_storage_may_change_when_a_run_goes_on(worlds: Worlds, tmp_path: Path) -> None:
    """To packed weights and back: in double precision nothing else changes."""
    values = {**RUN, "train.precision": "fp64", "execution.compute": "dense", "output": tmp_path / "whole"}
    assert {outcome.code for outcome in worlds(1).run(cases.command, values)} == {0}
    values["output"] = tmp_path / "parts"
    for storage, stop in (("masked", 3), ("packed", 7), ("masked", None)):
        more = {} if stop is None else {"interrupt_after": stop}
        outcomes = worlds(1).run(cases.command, {**values, "execution.storage": storage}, **more)
        assert {outcome.code for outcome in outcomes} == {130 if stop else 0}
    for part, row in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert part["sparsity/mask_digest"] == row["sparsity/mask_digest"]
        for column in ("train/loss", "val/loss"):
            assert part[column] == row[column] or float(part[column]) == pytest.approx(float(row[column]), rel=1e-9)
