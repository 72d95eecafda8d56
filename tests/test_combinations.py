"""The combinations of options that users will try, each trained for a few steps: they must fit together and stay sparse."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from dist_sparse import run
from dist_sparse.config import Config, load_config
from tests.command import logging_restored

SMALL = {
    "data.name": "digits",
    "data.limit": 640,
    "model.name": "cifar_resnet20",
    "model.kwargs": {"width": 0.25, "blocks": 1},
    "train.epochs": 2,
    "train.batch_size": 128,
    "sparsity.method": "rigl",
    "sparsity.density": 0.3,
    "sparsity.update.interval": 2,
    "tracking.wandb": "disabled",
    "tracking.log_every": 1,
    "engine.device": "cpu",
}
BASE_STEPS = 10

VIT = {
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2},
}

BLOCKS = {"sparsity.structure": "block:4x1", "sparsity.keep_dense": ["last"]}
PATTERNS = {
    "sparsity.structure": "pattern",
    "sparsity.distribution": "uniform",
    "sparsity.keep_dense": ["first", "last", "*.downsample.*"],
}
HALF = {"sparsity.density": 0.5, "sparsity.distribution": "uniform", "sparsity.update.drop_fraction": 0.5}

COMBINATIONS = {
    "bf16 in channels_last": {"train.precision": "bf16", "train.channels_last": True},
    "fp16 with a scaler and accumulation": {"train.precision": "fp16", "train.accumulation": 2},
    "fp64 with mixup": {"train.precision": "fp64", "train.mixup": 0.2},
    "mixup, cutmix and smoothing": {"train.mixup": 0.2, "train.cutmix": 1.0, "train.label_smoothing": 0.1},
    "weights averaged, gradients clipped": {"train.ema": 0.9, "train.clip_norm": 1.0},
    "set in itop form": {"sparsity.method": "set", "sparsity.update.form": "itop", "sparsity.update.interval": 3},
    "rigl in itop form, gradients of three steps": {
        "sparsity.update.form": "itop",
        "sparsity.update.interval": 4,
        "sparsity.update.gradient_steps": 3,
    },
    "adamw on a transformer with drop path": {
        **VIT,
        "model.kwargs.drop_path_rate": 0.1,
        "optim.name": "adamw",
        "optim.lr": 1e-3,
        "optim.momentum": 0.9,
    },
    "an optimizer that does not keep zeros": {**VIT, "optim.name": "muon", "optim.lr": 0.01},
    "uniform with dense ends": {"sparsity.distribution": "uniform", "sparsity.keep_dense": ["first", "last", "*.downsample.*"]},
    "a table of densities": {
        "sparsity.density": None,
        "sparsity.distribution": "table",
        "sparsity.table": {"layer1.*": 0.5, "*": 0.2},
    },
    "rigl with blocks in channels_last": {**BLOCKS, "train.channels_last": True, "train.precision": "bf16"},
    "set with n of m in itop form": {
        "sparsity.method": "set",
        "sparsity.update.form": "itop",
        "sparsity.update.interval": 3,
        "sparsity.density": None,
        "sparsity.structure": "nm:2:4",
        "sparsity.keep_dense": ["first"],
    },
    "rigl with constant fan-in, fp16 and accumulation": {
        "sparsity.structure": "fan_in",
        "sparsity.keep_dense": ["first"],
        "train.precision": "fp16",
        "train.accumulation": 2,
    },
    "set with kernels": {"sparsity.method": "set", "sparsity.structure": "kernel"},
    "rigl with kernels in every filter": {"sparsity.structure": "kernel_per_filter", "sparsity.keep_dense": ["first"]},
    "rigl with filters": {"sparsity.structure": "filter", **HALF},
    "set with channels": {"sparsity.method": "set", "sparsity.structure": "channel", "sparsity.keep_dense": ["first"], **HALF},
    "rigl with patterns in channels_last, bf16 and accumulation": {
        **PATTERNS,
        "train.channels_last": True,
        "train.precision": "bf16",
        "train.accumulation": 2,
    },
    "set with patterns, weights averaged": {**PATTERNS, "sparsity.method": "set", "train.ema": 0.9},
    "mest with patterns": {
        **PATTERNS,
        "sparsity.method": "mest",
        "sparsity.mest.keep": [0.2],
        "sparsity.mest.decay": [],
        "sparsity.update.interval": 3,
    },
    "mest with blocks": {
        **BLOCKS,
        "sparsity.method": "mest",
        "sparsity.mest.keep": [0.1],
        "sparsity.mest.decay": [],
        "sparsity.update.interval": 3,
    },
    "static with blocks on a transformer": {
        **VIT,
        **BLOCKS,
        "sparsity.method": "static",
        "sparsity.update.interval": None,
        "sparsity.keep_dense": ["last"],
        "optim.name": "adamw",
        "optim.lr": 1e-3,
    },
    "static by magnitude with patterns": {
        **PATTERNS,
        "sparsity.method": "static",
        "sparsity.init": "magnitude",
        "sparsity.update.interval": None,
    },
    "static with a multistep schedule": {
        "sparsity.method": "static",
        "sparsity.update.interval": None,
        "scheduler.name": "multistep",
        "scheduler.milestones": ["50%"],
        "scheduler.warmup": "2 steps",
    },
    "mest with micro-batches, averaged weights and a gradient in its score": {
        "sparsity.method": "mest",
        "sparsity.mest.removal_gradient": 0.1,
        "train.accumulation": 2,
        "train.ema": 0.9,
    },
    "shuffled blocks in channels_last, bf16 and accumulation": {
        "sparsity.method": "shuffled_block",
        "sparsity.shuffled_block.size": 4,
        "train.channels_last": True,
        "train.precision": "bf16",
        "train.accumulation": 2,
    },
    "static shuffled blocks": {
        "sparsity.method": "shuffled_block",
        "sparsity.shuffled_block": {"size": 4, "dynamic": False},
        "sparsity.update.interval": None,
    },
    "mest in fp16": {"sparsity.method": "mest", "train.precision": "fp16"},
    "dense": {"sparsity.method": "dense", "sparsity.density": None, "sparsity.update.interval": None},
}


def train(config: Config) -> dict[str, Any]:
    with logging_restored():
        return run.train(config)


@pytest.mark.parametrize("options", COMBINATIONS.values(), ids=COMBINATIONS)
def test_trains_and_stays_sparse(options: dict[str, object], tmp_path: Path) -> None:
    config = load_config(overrides={**SMALL, "output": str(tmp_path), **options})
    summary = train(config)
    assert summary["exit_reason"] == "finished"
    assert summary["steps"] == BASE_STEPS
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(math.isfinite(float(row["train/loss"])) for row in rows if row["train/loss"])
    digests = {row["sparsity/mask_digest"] for row in rows if row["sparsity/mask_digest"]}
    moves = config.sparsity.method in ("set", "rigl", "mest", "shuffled_block") and config.sparsity.shuffled_block.dynamic
    assert (len(digests) > 2) if moves else (len(digests) == 1)
    densities = {float(row["sparsity/density"]) for row in rows if row["sparsity/density"]}
    assert len(densities) == 1
    if config.sparsity.structure.startswith("nm"):
        assert densities == {0.5}
    if config.sparsity.density is not None:
        whole_units = config.sparsity.structure != "unstructured" or config.sparsity.method == "shuffled_block"
        rounding = 0.02 if whole_units else 0.002  # of narrow layers
        assert densities.pop() == pytest.approx(config.sparsity.density, abs=rounding)


@pytest.mark.parametrize("method", ["gmp", "granet", "granet_uniform"])
def test_pruning_ends_at_the_density_and_the_summary_tells_the_end(method: str, tmp_path: Path) -> None:
    keys = {"sparsity.method": method, "sparsity.density": 0.1, "sparsity.ramp.end": "60%"}
    summary = train(load_config(overrides={**SMALL, **keys, "output": str(tmp_path)}))
    with (tmp_path / "metrics.csv").open() as file:
        densities = [float(row["sparsity/density"]) for row in csv.DictReader(file) if row["sparsity/density"]]
    assert densities[0] == 1 and densities == sorted(densities, reverse=True)
    assert densities[-1] == summary["density"] == pytest.approx(0.1, abs=0.002)
    assert summary["active_parameters"] < 0.2 * summary["parameters"]
    assert summary["flops"] < 0.5 * summary["dense_flops"]


def test_connection_sensitivity_takes_one_dense_step(tmp_path: Path) -> None:
    keys = {"sparsity.method": "static", "sparsity.init": "snip", "sparsity.update.interval": None}
    keys |= {"train.accumulation": 2, "train.ema": 0.9, "train.precision": "fp16"}
    summary = train(load_config(overrides={**SMALL, **keys, "output": str(tmp_path)}))
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sparsity/density"]]
    densities = [float(row["sparsity/density"]) for row in rows]
    assert densities[0] == 1 and densities[1:] == pytest.approx([0.3] * len(densities[1:]), abs=1e-3)
    assert len({row["sparsity/mask_digest"] for row in rows[1:]}) == 1
    assert float(rows[-1]["sparsity/mean_density"]) == pytest.approx(0.3 + 0.7 / BASE_STEPS, abs=1e-3)
    assert float(rows[-1]["sparsity/exploration"]) == pytest.approx(0.3, abs=1e-3)
    assert summary["active_parameters"] < 0.4 * summary["parameters"]
