"""Sparse execution on several ranks: the masks and losses of dense execution, under every engine, and runs that go on."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dist_sparse.execution.kernels import kernels
from tests.distributed import cases
from tests.distributed.test_every_method import KEYS, SHORT
from tests.distributed.test_masks import EXACT, SIZES, ast, updates
from tests.distributed.test_resume import RUN, goes_on_as_if_nothing_had_been
from tests.distributed.world import World
from tests.values import SMALL_RESNET

Worlds = Callable[[int], World]
SPARSE = {"execution.compute": "sparse"}
CONVOLUTIONS = {**SHORT, "sparsity.density": 0.3, "sparsity.distribution": "uniform"}


@pytest.fixture(autouse=True, scope="module")
def compiled_once() -> None:
    """So that ranks find them in the cache."""
    kernels()


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        pytest.param(
            {**CONVOLUTIONS, **KEYS["rigl"], "sparsity.method": "rigl", "sparsity.structure": "block:4x1"}, SIZES, id="rigl"
        ),
        pytest.param({**CONVOLUTIONS, **KEYS["top_kast"], "sparsity.method": "top_kast"}, SIZES[:2], id="top_kast"),
        pytest.param({**EXACT, **updates("set"), "train.epochs": 1}, SIZES, id="set-linear"),
        pytest.param({**EXACT, **ast(), "train.epochs": 1}, SIZES[:2], id="ast-linear"),
    ],
)
def test_masks_do_not_depend_on_ranks_nor_on_execution(
    worlds: Worlds, tmp_path: Path, values: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    dense = worlds(1).run(cases.train, values, str(tmp_path / "dense"))[0]
    for size in sizes:
        for trained in worlds(size).run(cases.train, {**values, **SPARSE}, str(tmp_path / str(size))):
            assert max(trained.column("execution/sparse_layers").values()) > 0
            assert trained.digests == dense.digests
            assert trained.losses == pytest.approx(dense.losses, rel=1e-9)


def test_so_where_there_is_no_compiler(worlds: Worlds, tmp_path: Path) -> None:
    """Layers whose rows agree in groups of 16 are computed in plain torch."""
    values = {**CONVOLUTIONS, **KEYS["rigl"], "sparsity.method": "rigl", "sparsity.structure": "block:16x1"}
    values["sparsity.keep_dense"] = ["first", "last", "conv1.*", "*.downsample.*"]
    dense = worlds(1).run(cases.train, values, str(tmp_path / "dense"))[0]
    assert dense.updates >= 3
    for size in SIZES[:2]:
        for trained in worlds(size).run(cases.train_without_compiler, {**values, **SPARSE}, str(tmp_path / str(size))):
            assert max(trained.column("execution/sparse_layers").values()) > 0
            assert trained.digests == dense.digests
            assert trained.losses == pytest.approx(dense.losses, rel=1e-9)


@pytest.mark.parametrize("size", [2, 3])
def test_runs_go_on_bit_for_bit(worlds: Worlds, tmp_path: Path, size: int) -> None:
    goes_on_as_if_nothing_had_been(worlds(size), tmp_path, {**RUN, **SPARSE}, kills=(2, 8))


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is an extra")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_trains_as_ddp(worlds: Worlds, tmp_path: Path, stage: int) -> None:
    """With batch norms and ReLUs, whose fusion an engine that wraps modules could break."""
    values = {
        **SMALL_RESNET,
        "train.epochs": 1,
        "train.batch_size": 64,
        "optim.lr": 0.01,
        "sparsity.density": 0.3,
        **updates("static"),
        **SPARSE,
    }
    keys = {"engine.name": "deepspeed", "engine.zero.stage": stage}
    ddp, zero = (
        worlds(2).run(cases.train, {**values, **more}, str(tmp_path / name))[0] for name, more in (("ddp", {}), ("zero", keys))
    )
    assert max(zero.column("execution/sparse_layers").values()) == max(ddp.column("execution/sparse_layers").values()) > 0
    assert zero.digests == ddp.digests
    assert zero.losses == pytest.approx(ddp.losses, rel=1e-4)
