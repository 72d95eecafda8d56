"""Runs in processes of their own: on several GPUs, compiled, and by DeepSpeed, each against one process of DDP."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.command import ROOT, metrics, words
from tests.gpu.test_training import RIGL, digests, losses

pytestmark = pytest.mark.gpu

NO_NORM = {
    **RIGL,
    "train.precision": "fp32",
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {"img_size": 8, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
}
"""Without batch statistics, which are a rank's own."""


def train(folder: Path, ranks: int, device: str, **values: Any) -> list[dict[str, str]]:
    """The metrics of a run in processes of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    keys = {
        **NO_NORM,
        "engine.device": device,
        "output": folder,
        **{key.replace("__", "."): each for key, each in values.items()},
    }
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "dist_sparse.train", *words(keys)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return metrics(folder)


@pytest.mark.parametrize("exchange", ["dense", "masked"])
def test_two_ranks_find_the_masks_of_one(tmp_path: Path, device: str, exchange: str) -> None:
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    values = {"train__precision": "fp64", "engine__exchange": exchange}
    one, two = (train(tmp_path / str(ranks), ranks, device, **values) for ranks in (1, 2))
    assert digests(two) == digests(one)
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)


def test_a_compiled_network_trains_as_a_plain_one(tmp_path: Path, device: str) -> None:
    plain, compiled = (
        train(tmp_path / str(each), 1, device, train__precision="fp64", train__compile=each) for each in (False, True)
    )
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-6)
    assert digests(compiled) == digests(plain)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_trains_as_ddp(tmp_path: Path, device: str, stage: int) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs DeepSpeed")
    ranks = 2 if device == "cpu" or torch.cuda.device_count() > 1 else 1
    ddp = train(tmp_path / "ddp", ranks, device)
    zero = train(tmp_path / "zero", ranks, device, engine__name="deepspeed", engine__zero__stage=stage)
    assert [row["step"] for row in zero] == [row["step"] for row in ddp]
    assert losses(zero) == pytest.approx(losses(ddp), rel=2e-2)
    assert [row["sparsity/density"] for row in zero] == [row["sparsity/density"] for row in ddp]
