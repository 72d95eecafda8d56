"""DeepSpeed's own checkpoints: a folder that every rank writes its part to, beside the checkpoint that counts it in."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from dist_sparse.distributed import everyones, from_first_rank

_TAG = "zero"


class ShardsNotWritten(OSError):
    """The file system refused some rank's part; told on all ranks."""


def save(engine: Any, folder: Path) -> dict[str, Any]:
    """Write the state of all ranks; returns each file's size, by its name within the folder. Collective.

    Raises:
        ShardsNotWritten: on every rank.
    """
    first = torch.distributed.get_rank() == 0
    if first:
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed here
    from_first_rank(None)
    engine.checkpoint_engine = writer = _writer()
    try:
        engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
    except OSError as error:
        writer.errors.append(str(error))
    if errors := [error for each in everyones(writer.errors) for error in each]:
        raise ShardsNotWritten(errors[0])
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted((folder / _TAG).iterdir())}


def load(engine: Any, folder: Path) -> None:
    """Take over what :func:`save` wrote on as many ranks at the same stage. Collective."""
    path, _ = engine.load_checkpoint(str(folder), tag=_TAG, load_lr_scheduler_states=False)
    assert path is not None, f"{folder} was checked before"


def _writer() -> Any:
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

    class Writer(TorchCheckpointEngine):
        """Flushes to the disk, and keeps errors until all ranks have come past DeepSpeed's barriers."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def save(self, state_dict: Any, path: str) -> None:
            try:
                with Path(path).open("wb") as file:
                    torch.save(state_dict, file)
                    file.flush()
                    os.fsync(file.fileno())
            except (OSError, RuntimeError) as error:
                self.errors.append(f"{path}: {error}")

    return Writer()
