"""Whether a run's folder holds what a finished run leaves, and whether ``best.pt`` is what the run takes for its best."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_sparse.checkpoint import CheckpointStore, check_resumable
from dist_sparse.errors import UserError
from dist_sparse.files import atomic_link
from dist_sparse.progress import Progress
from dist_sparse.run_folder import RunFolder
from dist_sparse.stored import probe, step_of
from dist_sparse.tracking.recovery import intact

_log = logging.getLogger(__name__)


class NotSaved(UserError):
    """A run came to its last step, but not all of it is on the disk."""

    on_all_ranks = True
    exit_code = 1


def gap_of(folder: RunFolder, last: Path, best_step: int | None) -> str | None:
    """What is missing or damaged of a run whose ``last`` checkpoint and whose best should be in its folder; None if nothing."""
    try:
        state = probe(last)
        step_of(state, last)
        best = CheckpointStore(folder.checkpoints, keep=1).best_path
        if best_step and (step := step_of(probe(best), best)) != best_step:
            return f"{best} is the checkpoint of step {step}, and the best is that of step {best_step}"
    except UserError as error:
        return str(error)
    gone = [name for name in ("config.yaml", "metrics.csv", "layers.csv") if not (folder.path / name).is_file()]
    if gone:
        return f"{folder.path}: {', '.join(gone)} {'is' if len(gone) == 1 else 'are'} gone"
    broken = [name for name, saved in state.get("tables", {}).items() if not intact(folder.path / name, saved)]
    return f"{folder.path}: {', '.join(broken)} not as the run wrote it" if broken else None


def gap_of_finished(folder: RunFolder) -> str | None:
    """The same of a run whose summary says that it is finished."""
    last = folder.last_checkpoint()
    return (
        f"{folder.checkpoints} holds no checkpoint" if last is None else gap_of(folder, last, folder.summary().get("best_step"))
    )


def settle_best(store: CheckpointStore, progress: Progress, origin: Path, config: Mapping[str, Any], *, last: bool) -> None:
    """Make ``best.pt`` and what the ``progress`` of the checkpoint at ``origin`` says of the best agree. For one rank.

    A best checkpoint that is damaged or gone is replaced by the checkpoint of its step, if that is still there. A sound one of
    another step is believed, if the run's ``config`` (by dotted key) has written it. Else there is no best any more: the next
    validation sets one, for which a ``last`` step is validated again.
    """
    if not progress.best_step:
        return
    path, held, trouble = store.best_path, None, ""
    try:
        held = probe(path)
        if step_of(held, path) == progress.best_step:
            return
        trouble = f"{path} is the checkpoint of step {step_of(held, path)}, and the best was that of step {progress.best_step}"
    except UserError as error:
        trouble = str(error)
    if _replaced(store, progress.best_step, origin):
        if origin.parent == path.parent:
            _log.warning("%s; it is the checkpoint of step %d again", trouble, progress.best_step)
    elif held is not None and (believed := _own_best(held, config)):
        progress.best_top1, progress.best_step = believed
        _log.warning("%s; the best so far is now the one that is there", trouble)
    else:
        progress.best_top1, progress.best_step = -1.0, 0
        progress.validation_pending |= last
        _log.warning("%s; there is no best checkpoint now, the next validation sets one", trouble)


def _replaced(store: CheckpointStore, step: int, origin: Path) -> bool:
    """Whether a checkpoint of the step was there to become the best."""
    for path in dict.fromkeys((store.path(step), origin)):
        try:
            state = probe(path)
            if step_of(state, path) == step and (path.parent == store.best_path.parent or not state.get("shards")):
                atomic_link(path, store.best_path)
                return True
        except (UserError, OSError):
            continue
    return False


def _own_best(held: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[float, int] | None:
    """Accuracy and step of a checkpoint that was the best of this run when it was written."""
    try:
        progress = held["progress"]
        check_resumable(held["config"], config)
    except (UserError, KeyError, TypeError):
        return None
    own = progress.get("best_step") == progress["step"] and isinstance(progress.get("best_top1"), float)
    return (progress["best_top1"], progress["best_step"]) if own else None
