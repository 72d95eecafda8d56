"""Golden files: loss and mask digest of short runs in double precision, so that a later refactor can prove itself.

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
_SPARSE = {"sparsity.density": 0.2}
_MOVING = {**_SPARSE, "sparsity.update.interval": "3 steps"}

METHODS: dict[str, dict[str, Any]] = {
    "dense": {"sparsity.method": "dense"},
    "static": {**_SPARSE, "sparsity.method": "static"},
    "set": {**_MOVING, "sparsity.method": "set"},
    "rigl": {**_MOVING, "sparsity.method": "rigl"},
    "rigl_itop": {**_MOVING, "sparsity.method": "rigl", "sparsity.update.form": "itop", "sparsity.update.gradient_steps": 2},
}
MODELS = {"batch_norm": _WITH_NORM, "layer_norm": _WITHOUT_NORM}
RUNS = {f"{method}-{model}": {**_COMMON, **METHODS[method], **MODELS[model]} for method in METHODS for model in MODELS}


def history(values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Train in ``folder``; returns the loss and the mask digest of each step that has them."""
    outcome = train_here({**values, "output": folder})
    assert outcome.code == 0, outcome.err
    return [_row(row) for row in metrics(folder)]


def read(name: str) -> list[dict[str, Any]]:
    """The rows on record."""
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def record(name: str) -> None:
    """Write a run's file: one JSON object a line and step."""
    with tempfile.TemporaryDirectory() as folder:
        rows = history(RUNS[name], Path(folder))
    (FOLDER / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(row: dict[str, str]) -> dict[str, Any]:
    loss, masks = row["train/loss"], row["sparsity/mask_digest"]
    return {"step": int(row["step"]), **({"loss": float(loss)} if loss else {}), **({"masks": masks} if masks else {})}


if __name__ == "__main__":
    for each in RUNS:
        record(each)
        print(f"recorded {each}")
