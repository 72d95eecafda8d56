"""Golden files: losses, masks, densities and costs of short runs in double precision, so that a refactor can prove itself.

``python -m tests.golden.record`` writes them anew. One may do that only when a run is *meant* to compute something else
(another default, another order of random draws, a corrected formula), and then the commit says what and why. A change that
should keep the results and does not pass is wrong, however small the difference: do not record over it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.command import metrics, train_here

FOLDER = Path(__file__).parent

_COMMON = {
    "engine.device": "cpu",
    "tracking.wandb": "disabled",
    "tracking.log_every": 1,
    "train.precision": "fp64",
    "train.epochs": 2,
    "train.batch_size": 64,
    "optim.lr": 0.05,
}
"""44 steps on digits."""
_WITH_NORM = {"model.name": "cifar_resnet20", "model.kwargs": {"width": 0.25}}
_WITHOUT_NORM = {
    "model.name": "vit_tiny_patch16_224",
    "model.kwargs": {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2},
}
MODELS = {"batch_norm": _WITH_NORM, "layer_norm": _WITHOUT_NORM}

_SPARSE = {"sparsity.density": 0.2}
_MOVING = {**_SPARSE, "sparsity.update.interval": "3 steps"}
_UNIFORM = {**_MOVING, "sparsity.distribution": "uniform", "sparsity.keep_dense": ["first", "last", "*.downsample.*"]}
_RAMP = {**_MOVING, "sparsity.ramp.end": "60%"}
_PHASES = {"sparsity.mest.decay": ["30%", "60%"]}
_BLOCKS = {**_MOVING, "sparsity.method": "shuffled_block", "sparsity.shuffled_block.size": 2}
_SUB_NETS = {"sparsity.method": "ast", "sparsity.update.interval": "6 steps", "sparsity.ast.offset": "2 steps"}

METHODS: dict[str, dict[str, Any]] = {
    "dense": {"sparsity.method": "dense"},
    "static": {**_SPARSE, "sparsity.method": "static"},
    "set": {**_MOVING, "sparsity.method": "set"},
    "rigl": {**_MOVING, "sparsity.method": "rigl"},
    "rigl_itop": {**_MOVING, "sparsity.method": "rigl", "sparsity.update.form": "itop", "sparsity.update.gradient_steps": 2},
}
"""Tried on both models."""

MORE: dict[str, dict[str, Any]] = {
    "static_snip": {**_SPARSE, "sparsity.method": "static", "sparsity.init": "snip"},
    "static_channel": {
        "sparsity.density": 0.5,
        "sparsity.method": "static",
        "sparsity.structure": "channel",
        "sparsity.keep_dense": ["first"],
    },
    "set_fan_in": {**_MOVING, "sparsity.method": "set", "sparsity.structure": "fan_in"},
    "set_unfired": {**_MOVING, "sparsity.method": "set", "sparsity.update.growth": "random_unfired"},
    "rigl_block": {**_MOVING, "sparsity.method": "rigl", "sparsity.structure": "block:2x1"},
    "rigl_taylor": {**_MOVING, "sparsity.method": "rigl", "sparsity.update.removal": "taylor"},
    "snfs": {**_MOVING, "sparsity.method": "snfs"},
    "snfs_kernel": {
        **_MOVING,
        "sparsity.method": "snfs",
        "sparsity.structure": "kernel",
        "sparsity.update.redistribution": "none",
    },
    "granet": {**_RAMP, "sparsity.method": "granet"},
    "granet_sparse_start": {**_RAMP, "sparsity.method": "granet", "sparsity.ramp.initial_density": 0.5},
    "granet_filter": {**_RAMP, "sparsity.method": "granet", "sparsity.structure": "filter", "sparsity.keep_dense": ["last"]},
    "granet_uniform": {**_RAMP, "sparsity.method": "granet_uniform"},
    "granet_uniform_nm": {
        **_RAMP,
        "sparsity.method": "granet_uniform",
        "sparsity.structure": "nm:1:4",
        "sparsity.density": 0.25,
        "sparsity.keep_dense": ["first"],
    },
    "gmp": {**_RAMP, "sparsity.method": "gmp"},
    "gmp_kernel": {**_RAMP, "sparsity.method": "gmp", "sparsity.structure": "kernel"},
    "gmp_uniform": {**_RAMP, "sparsity.method": "gmp_uniform"},
    "gmp_uniform_per_filter": {
        **_RAMP,
        "sparsity.method": "gmp_uniform",
        "sparsity.structure": "kernel_per_filter",
        "sparsity.keep_dense": ["first"],
    },
    "mest_em": {**_UNIFORM, **_PHASES, "sparsity.method": "mest", "sparsity.mest.removal_gradient": 0.1},
    "mest_em_pattern": {**_UNIFORM, **_PHASES, "sparsity.method": "mest", "sparsity.structure": "pattern"},
    "mest_ems": {**_UNIFORM, **_PHASES, "sparsity.method": "mest", "sparsity.mest.grow_to": [0.3, 0.25, 0.2]},
    "ssb": {**_BLOCKS, "sparsity.shuffled_block.dynamic": False},
    "dsb": _BLOCKS,
    "ast": {**_SUB_NETS, "sparsity.ast.densities": [0.4, 0.3, 0.2]},
    "ast_nm": {
        **_SUB_NETS,
        "sparsity.ast.structures": ["nm:2:4", "nm:1:4"],
        "sparsity.keep_dense": ["first", "last"],
    },
    "ast_single": {**_SUB_NETS, "sparsity.ast.densities": [0.2], "sparsity.ast.correction": "none"},
    "acdc": {**_MOVING, "sparsity.method": "acdc"},
    "acdc_filter": {
        **_MOVING,
        "sparsity.method": "acdc",
        "sparsity.structure": "filter",
        "sparsity.density": 0.4,
        "sparsity.keep_dense": ["last"],
    },
    "top_kast": {**_MOVING, "sparsity.method": "top_kast", "optim.weight_decay": 0.0},
    "top_kast_kernel": {**_MOVING, "sparsity.method": "top_kast", "sparsity.structure": "kernel"},
    "srste": {"sparsity.method": "srste", "sparsity.structure": "nm:2:4", "sparsity.keep_dense": ["first"]},
}
"""Every other method and start, and a structure of each, tried on the model with batch norm."""

RUNS: dict[str, dict[str, Any]] = {
    **{f"{method}-{model}": {**_COMMON, **METHODS[method], **MODELS[model]} for method in METHODS for model in MODELS},
    **{f"{method}-batch_norm": {**_COMMON, **MORE[method], **_WITH_NORM} for method in MORE},
}
COSTS = ("density", "mean_density", "peak_density", "active_parameters", "flops", "dense_flops", "train_flops_relative")
"""What of ``summary.json`` is on record."""


def history(values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Train in ``folder``; returns loss, density and mask digest of each step that has them, and at last the costs."""
    outcome = train_here({**values, "output": folder})
    assert outcome.code == 0, outcome.err
    summary = json.loads((folder / "summary.json").read_text())
    return [*map(_row, metrics(folder)), {"costs": {name: summary[name] for name in COSTS}}]


def read(name: str) -> list[dict[str, Any]]:
    """The rows on record."""
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def record(name: str) -> None:
    """Write a run's file: one JSON object a line and step, and one of the costs."""
    with tempfile.TemporaryDirectory() as folder:
        rows = history(RUNS[name], Path(folder))
    (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(row: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"step": int(row["step"])}
    if row["train/loss"]:
        found["loss"] = float(row["train/loss"])
    if row["sparsity/mask_digest"]:
        found |= {"masks": row["sparsity/mask_digest"], "density": float(row["sparsity/density"])}
    return found


if __name__ == "__main__":
    for each in RUNS:
        record(each)
        print(f"recorded {each}")
