"""Checkpoints on disk: the last few and the best, written so that a kill or a full disk costs none of those before.

A state is a tree of dicts, lists and tuples with tensors, numbers and text as leaves: reading one runs no code out of the file.
Only rank 0 writes; any process may read, while the run goes on too.
"""

import logging
import re
import shutil
import textwrap
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dist_sparse.errors import UserError
from dist_sparse.files import atomic_link, atomic_write, dump, remove_leftovers
from dist_sparse.inputs import check_file

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "name", "output", "resume", "data.root", "data.download", "data.backend", "data.workers", "data.bad_images",
    "train.eval_batch_size", "train.compile", "train.nan_limit", "engine.device", "engine.timeout", "engine.exchange",
    "engine.deepspeed_config", "checkpoint.*", "tracking.*",
)  # fmt: skip
"""Keys (patterns) that a resumed run may set anew: where things lie, how they are run and reported, not what is computed."""

CHANGES_ROUNDING = (
    "data.backend", "train.eval_batch_size", "train.compile", "engine.device", "engine.exchange", "engine.deepspeed_config",
)  # fmt: skip
"""Those of them after which results agree with the uninterrupted run's up to rounding only."""

_STEP_FILE = re.compile(r"step_(\d{8,})\.pt")
_SCALARS = (bool, int, float, str, type(None), torch.dtype)


class CheckpointStore:
    """The checkpoints of one run: ``step_00001234.pt``, the ``keep`` last of them, and ``best.pt``.

    What an engine writes by itself lies beside them in ``step_00001234.shards``. The checkpoint, which is written after it,
    lists those files with their sizes under ``shards``: without it the folder counts for nothing.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        assert keep >= 1
        self._folder, self._keep = Path(folder), keep

    @property
    def best_path(self) -> Path:
        return self._folder / "best.pt"

    def shards(self, step: int) -> Path:
        """The folder beside the checkpoint of ``step`` steps for what its file does not hold."""
        return self._folder / _shards_name(step)

    def paths(self) -> list[Path]:
        """The checkpoints by step, the oldest first; the best one's second name is not among them."""
        found = self._folder.glob("step_*.pt")
        return sorted((path for path in found if _STEP_FILE.fullmatch(path.name)), key=_step_of)

    def save(self, step: int, state: dict[str, Any], *, best: bool = False) -> bool:
        """Write the state after ``step`` steps, and name it the best one too if asked; then drop the oldest beyond ``keep``.

        Later steps on disk are those of a run that was resumed from further back: they go as well.

        Returns:
            False where the file system refused (a full disk, say), after a warning. The checkpoints before are still there.
        """
        _check_plain(state, "state")
        path = self._folder / f"step_{step:08d}.pt"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._folder)
            atomic_write(path, lambda file: dump(state, file))
            if best:
                atomic_link(path, self.best_path)
            self._rotate(step)
        except OSError as error:
            log.warning("no checkpoint at step %d: %s: %s; training goes on", step, path, error.strerror or error)
            if not path.exists():
                shutil.rmtree(self.shards(step), ignore_errors=True)  # they count for nothing, and fill the disk
            return False
        return True

    def _rotate(self, step: int) -> None:
        earlier = [path for path in self.paths() if _step_of(path) <= step]
        kept = earlier[-self._keep :]
        for path in self.paths():
            if path not in kept:
                path.unlink(missing_ok=True)
        if folders := list(self._folder.glob("step_*.shards")):
            needed = {self.shards(_step_of(path)) for path in kept}
            needed |= self._shards_of_best()
            for folder in folders:
                if folder not in needed:
                    shutil.rmtree(folder, ignore_errors=True)

    def _shards_of_best(self) -> set[Path]:
        try:
            return {self.shards(torch.load(self.best_path, mmap=True, weights_only=True)["progress"]["step"])}
        except Exception:  # none yet, or whatever broken bytes make torch trip over: that is told where it is to be read
            return set()

    def newest(self, map_location: torch.device | str = "cpu") -> tuple[Path, dict[str, Any]] | None:
        """The newest good checkpoint, or None where there is none at all. Each damaged one before it is reported.

        Raises:
            UserError: there are checkpoints, and all are damaged. Starting anew in their folder is the user's to decide.
        """
        candidates = self.paths()[::-1] + [path for path in [self.best_path] if path.exists()]
        for path in candidates:
            try:
                state = self.load(path, map_location)
                check_shards(path, state, thoroughly=True)
                return path, state
            except UserError as error:
                log.warning("%s; going back to the one before it", error)
        if candidates:
            raise UserError(f"{self._folder}: all {len(candidates)} checkpoints are damaged; move them away to start anew")
        return None

    def best(self, map_location: torch.device | str = "cpu") -> tuple[Path, dict[str, Any]] | None:
        """The best checkpoint, or None where there is none.

        Raises:
            UserError: it is damaged.
        """
        return (self.best_path, self.load(self.best_path, map_location)) if self.best_path.exists() else None

    @staticmethod
    def load(path: Path | str, map_location: torch.device | str = "cpu") -> dict[str, Any]:
        """The state in a file, each byte of it checked against the checksums that it was written with.

        Raises:
            UserError: no such file, or not a whole and sound checkpoint.
        """
        check_file(Path(path), kind="checkpoint")
        try:
            with Path(path).open("rb") as file:
                # torch.load itself compares no checksums.
                with zipfile.ZipFile(file) as archive:
                    if (record := archive.testzip()) is not None:
                        raise zipfile.BadZipFile(f"checksum of {record!r} does not match")
                file.seek(0)
                state = torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:  # whatever broken bytes make zipfile and torch trip over
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise UserError(f"{path}: not a sound checkpoint: {reason}") from None
        if not isinstance(state, dict):
            raise UserError(f"{path}: not a checkpoint of this program, but a {type(state).__name__}")
        return state


def check_shards(path: Path, state: Mapping[str, Any], *, thoroughly: bool = False) -> Path | None:
    """The folder beside the checkpoint at ``path`` that holds the rest of its ``state``, or None if that is all.

    Raises:
        UserError: a file is not there, or not as long as it was, or (``thoroughly``) its checksums do not match.
    """
    if not state.get("shards"):
        return None
    folder = path.parent / _shards_name(state["progress"]["step"])
    for name, size in state["shards"].items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{path}: cannot be resumed from: {file} is missing or not whole")
        if thoroughly and zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    raise UserError(f"{path}: cannot be resumed from: checksums of {file} do not match")
    return folder


def check_whole(state: Mapping[str, Any], path: Path) -> None:
    """Refuse with a UserError what is a sound file, but not of a run: plain weights, say, or another program's checkpoint."""
    if missing := {"state_dict", "method", "progress", "config", "data", "world_size"} - state.keys():
        raise UserError(f"{path}: not a checkpoint of this program: it lacks {', '.join(sorted(missing))}")


def load_weights(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Give a model the weights of the checkpoint at ``path``; a UserError if they are another model's."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")  # it names every key
        raise UserError(f"{path} does not fit the run's model: {reason}") from error


def check_data(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse with a UserError a data set of other facts than the checkpoint's: its order would be another one."""
    if differing := [f"{key} {saved[key]} (now {current[key]})" for key in current if saved.get(key) != current[key]]:
        raise UserError(f"cannot resume with another data set: the checkpoint's has {', '.join(differing)}")


def decisive_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The keys (with both values) that differ in two configurations by dotted key, of those that decide what is computed."""
    differing = [key for key in saved if key in current and saved[key] != current[key] and not _matches(key, MAY_CHANGE)]
    return [f"{key} (was {saved[key]!r}, now {current[key]!r})" for key in differing]


def check_resumable(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Compare a checkpoint's configuration with the present one, both by dotted key.

    Returns:
        Warnings, one line each: changes that move results by rounding, and keys that only one of the two versions knows.

    Raises:
        UserError: keys differ that decide what is computed.
    """
    if changes := decisive_changes(saved, current):
        raise UserError(f"cannot resume with another {', '.join(changes)}; only these keys may change: {', '.join(MAY_CHANGE)}")
    differing = [key for key in saved if key in current and saved[key] != current[key]]
    warnings = []
    if rounding := [key for key in differing if _matches(key, CHANGES_ROUNDING)]:
        warnings.append(f"resuming with another {', '.join(rounding)}: results agree with the run so far up to rounding only")
    if unknown := [key for key in sorted(saved.keys() ^ current.keys()) if not _matches(key, MAY_CHANGE)]:
        warnings.append(f"resuming from another version of this program: {', '.join(unknown)} not known to both")
    return warnings


def check_world(saved: int, current: int, *, shared_out: bool) -> list[str]:
    """A warning where the number of ranks has changed. It may: ``train.batch_size`` counts the samples of all ranks.

    What looks at one rank's share of a batch sees another one: batch norm its statistics, mixup its pairs, dropout its draws.

    Raises:
        UserError: it may not where the optimizer's state is ``shared_out`` between them.
    """
    if saved == current:
        return []
    if shared_out:
        raise UserError(
            f"cannot resume on {current} ranks a run of {saved}: DeepSpeed has cut the optimizer's state into {saved} parts "
            "(engine.zero.stage=0 and engine.name=ddp keep it whole)"
        )
    so_far = f"resuming on {current} ranks a run of {saved}: the batch stays the same, and results agree up to rounding"
    return [f"{so_far}; not so where batch norm, mixup, cutmix or dropout work on each rank's share of the batch"]


def _shards_name(step: int) -> str:
    return f"step_{step:08d}.shards"


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _step_of(path: Path) -> int:
    match = _STEP_FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _check_plain(value: object, where: str) -> None:
    """Fail at the first save, not at the first resume, over a leaf that cannot be read back (such as NumPy's float)."""
    if isinstance(value, Tensor) or type(value) in _SCALARS:
        return
    assert type(value) in (dict, OrderedDict, list, tuple), f"{where}: a {type(value).__name__} is not plain"
    if isinstance(value, dict):
        for key in value:
            assert type(key) in (str, int), f"{where}: key {key!r} is neither text nor a whole number"
    for key, each in value.items() if isinstance(value, dict) else enumerate(cast(Sequence[object], value)):
        _check_plain(each, f"{where}[{key!r}]")
