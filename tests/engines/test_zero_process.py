"""A run under DeepSpeed leaves the process as it was, however it ends: the next one computes and counts as in a new process."""

import json
import logging
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn import functional

from tests.command import metrics, train_here
from tests.values import LOGGED

pytest.importorskip("deepspeed")

RUN: dict[str, Any] = {
    **LOGGED,
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "train.epochs": 1,
    "train.batch_size": 256,
    "sparsity.method": "static",
    "sparsity.density": 0.3,
}
"""5 steps."""
ZERO = {**RUN, "engine.name": "deepspeed", "engine.zero.stage": 3, "train.precision": "bf16"}


def process() -> dict[str, Any]:
    """What engines are known to change in it, or are suspected of."""
    from deepspeed.runtime import torch_autocast

    functions = {
        f"{owner.__name__}.{name}": value
        for owner in (functional, torch.nn.Module, torch.nn.Linear, torch.Tensor)
        for name, value in vars(owner).items()
    }
    makers = {name: getattr(torch, name) for name in ("tensor", "empty", "zeros", "ones", "full", "arange", "eye", "randn")}
    flags = {name: value for name, value in vars(torch_autocast).items() if name.startswith("TORCH_")}
    level = logging.getLogger("DeepSpeed").level
    return {**functions, **makers, **flags, **os.environ, "level": level, "dtype": torch.get_default_dtype()}


@pytest.fixture(autouse=True, scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What imports do to the process stays."""
    assert train_here({**RUN, "engine.name": "deepspeed", "output": tmp_path_factory.mktemp("first")}).code == 0


def test_the_next_run_computes_and_counts_as_before(tmp_path: Path) -> None:
    before = process()
    for name, values in {"ddp": RUN, "zero": ZERO, "ddp again": RUN, "zero again": ZERO}.items():
        assert train_here({**values, "output": tmp_path / name}).code == 0
        assert process() == before
    for name in ("ddp", "zero"):
        assert metrics(tmp_path / f"{name} again") == metrics(tmp_path / name)
    flops = {json.loads((folder / "summary.json").read_text())["flops"] for folder in tmp_path.iterdir()}
    assert len(flops) == 1


@pytest.mark.parametrize(
    "place",
    [
        "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3._setup_for_real_optimizer",
        "dist_sparse.build.build_tracker",
        "dist_sparse.run.write_provenance",
        "dist_sparse.trainer.Trainer.fit",
    ],
)
def test_so_after_a_failure(tmp_path: Path, place: str) -> None:
    before = process()
    replaced = []

    def fail(*_: Any, **__: Any) -> None:
        replaced.append(functional.linear is not before["torch.nn.functional.linear"])
        raise RuntimeError("had enough")

    with mock.patch(place, fail), pytest.raises(RuntimeError, match="had enough"):
        train_here({**ZERO, "output": tmp_path / "failed"})
    assert replaced == [True]
    assert process() == before
