"""DeepSpeed's own checkpoints: a folder that every rank writes its part to, beside the checkpoint that counts it in."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dist_sparse.distributed import everyones, from_first_rank
from dist_sparse.files import dump, replace_folder, unfinished

_TAG = "zero"


class ShardsNotWritten(OSError):
    """The file system refused some rank's part; told on all ranks."""


def save(engine: Any, folder: Path) -> dict[str, Any]:
    """Write the state of all ranks; returns each file's size, by its name within the folder. Collective.

    A folder of the same step, which a checkpoint may count on, stays until the new one is whole.

    Raises:
        ShardsNotWritten: on every rank; nothing is left behind.
    """
    first = torch.distributed.get_rank() == 0
    temporary, errors, sizes = folder, [], {}
    if first:
        temporary = unfinished(folder)
        errors = _tried(lambda: (temporary / _TAG).mkdir(parents=True))  # or the others would wait for the first in DeepSpeed
    temporary, errors = from_first_rank((temporary, errors))
    if not errors:
        errors = [error for each in everyones(_write(engine, temporary)) for error in each]
    if first and not errors:
        sizes = {str(path.relative_to(temporary)): path.stat().st_size for path in sorted((temporary / _TAG).iterdir())}
        errors = _tried(lambda: replace_folder(temporary, folder))
    sizes, errors = from_first_rank((sizes, errors))
    if errors:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        raise ShardsNotWritten(errors[0])
    return sizes


def _write(engine: Any, folder: Path) -> list[str]:
    """This rank's part; returns what the file system refused."""
    engine.checkpoint_engine = writer = _writer()
    # The first rank's copy of DeepSpeed's scripts goes past the writer, and would keep it from the last barrier. Nothing here
    # needs them: the checkpoint beside the folder holds all weights.
    engine._copy_recovery_script = lambda _: None
    return _tried(lambda: engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)) + writer.errors


def _tried(act: Callable[[], object]) -> list[str]:
    try:
        act()
    except OSError as error:
        return [str(error)]
    return []


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
                    dump(state_dict, file)
                    file.flush()
                    os.fsync(file.fileno())
            except (OSError, RuntimeError) as error:
                self.errors.append(f"{path}: {' '.join(str(error).split())}")

    return Writer()
