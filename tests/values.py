"""Values by dotted key that the runs of tests have in common."""

from typing import Any

QUIET: dict[str, Any] = {"engine.device": "cpu", "tracking.wandb": "disabled"}
"""A run on the CPU that W&B hears nothing of."""
LOGGED: dict[str, Any] = {**QUIET, "tracking.log_every": 1}
"""The same, with a line in ``metrics.csv`` after each step."""
TINY_VIT: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
"""``model.kwargs`` of a transformer without batch statistics, for digits."""
SMALL_RESNET: dict[str, Any] = {
    "model.name": "resnet18",
    "model.kwargs": {"channels": [8] * 4, "layers": [1, 1, 0, 0], "stem_width": 8},
}
"""A network of convolutions with batch norm, of two residual blocks: its two stages without blocks cost nothing."""
