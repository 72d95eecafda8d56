"""What a finished run hands to W&B beside its metrics."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dist_sparse.checkpoint import CheckpointStore

if TYPE_CHECKING:
    import wandb


def log_artifacts(run: "wandb.Run", folder: Path, facts: Mapping[str, float | int | str]) -> None:
    """Log a run's last checkpoint (``checkpoint-<run id>``) and ``layers.csv`` (``masks-<run id>``), with some facts.

    W&B reads them where they lie, in its own time; they are not copied.
    """
    import wandb

    checkpoints = CheckpointStore(folder / "checkpoints", keep=1).paths()
    for name, kind, files in (("checkpoint", "model", checkpoints[-1:]), ("masks", "mask-statistics", [folder / "layers.csv"])):
        artifact = wandb.Artifact(f"{name}-{run.id}", type=kind, metadata=dict(facts))
        for file in files:
            artifact.add_file(str(file.resolve()), policy="immutable")
        run.log_artifact(artifact)
