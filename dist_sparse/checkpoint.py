"""Checkpoints on disk: the last few and the best, written so that a kill or a full disk costs none of those before.

A state is a tree of dicts, lists and tuples with tensors, numbers and text as leaves: reading one runs no code out of the file.
Only rank 0 writes; any process may read, while the run goes on too.
"""

import logging
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dist_sparse import packed_state
from dist_sparse.contents import ENTRY, contents_of
from dist_sparse.data.identity import IDENTITY, differences
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.errors import UserError
from dist_sparse.files import atomic_link, atomic_write, dump, remove_leftovers
from dist_sparse.sparsity.packed_tensor import PackedTensor
from dist_sparse.stored import check_shards, read_checkpoint, shards_name, step_of

log = logging.getLogger(__name__)

MAY_CHANGE = (
    "name", "output", "resume", "data.root", "data.download", "data.backend", "data.workers", "data.bad_images",
    "train.eval_batch_size", "train.compile", "train.nan_limit", "execution.*", "engine.device", "engine.timeout",
    "engine.exchange", "engine.deepspeed_config", "checkpoint.*", "tracking.*",
)  # fmt: skip
"""Keys (patterns) that a resumed run may set anew: where things lie, how they are run and reported, not what is computed."""

CHANGES_ROUNDING = (
    "data.backend", "train.eval_batch_size", "train.compile", "execution.*", "engine.device", "engine.exchange",
    "engine.deepspeed_config",
)  # fmt: skip
"""Those of them after which results agree with the uninterrupted run's up to rounding only."""

_STEP_FILE = re.compile(r"step_(\d{8,})\.pt")
_SCALARS = (bool, int, float, str, type(None), torch.dtype)


class CheckpointStore:
    """The checkpoints of one run: ``step_00001234.pt``, the ``keep`` last of them, and ``best.pt``.

    What an engine writes by itself lies beside them in ``step_00001234.shards``. The checkpoint, which is written after it,
    lists those files with their sizes under ``shards``: without it the folder counts for nothing.
    """

    def __init__(self, folder: Path, keep: int, *, packed: bool = False) -> None:
        """``packed``: write tensors as bits and values where most entries are zeros; both forms are read."""
        assert keep >= 1
        self._folder, self._keep, self._packed = Path(folder), keep, packed
        self.refusal: str | None = None
        """Why the last checkpoint was not written; None if it was."""

    @property
    def best_path(self) -> Path:
        return self._folder / "best.pt"

    def path(self, step: int) -> Path:
        """The checkpoint of ``step`` steps, be it there or not."""
        return self._folder / f"step_{step:08d}.pt"

    def shards(self, step: int) -> Path:
        """The folder beside the checkpoint of ``step`` steps for what its file does not hold."""
        return self._folder / shards_name(step)

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
        state = packed_state.pack(state) if self._packed else packed_state.unpack(state)
        path, self.refusal = self.path(step), None
        place = path
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._folder)
            atomic_write(path, lambda file: dump({**state, ENTRY: contents_of(state)}, file))
            if best:
                place = self.best_path
                atomic_link(path, place)
        except OSError as error:
            self.refusal = f"{place}: {error.strerror or error}"
            log.warning("no %scheckpoint at step %d: %s; training goes on", "best " * path.exists(), step, self.refusal)
            if not path.exists():
                shutil.rmtree(self.shards(step), ignore_errors=True)  # they count for nothing, and fill the disk
            return False
        try:
            self._rotate(step)
        except OSError as error:
            log.warning("%s: checkpoints that are no longer needed stay: %s", self._folder, error)
        return True

    def tidy(self, step: int) -> None:
        """Do what a kill left undone after the checkpoint of ``step``: unfinished files go, and the oldest beyond ``keep``."""
        try:
            remove_leftovers(self._folder)
            _remove([path for path in self.paths() if _step_of(path) <= step][: -self._keep])
        except OSError as error:
            log.warning("%s: files that are no longer needed stay: %s", self._folder, error.strerror or error)

    def _rotate(self, step: int) -> None:
        earlier = [path for path in self.paths() if _step_of(path) <= step]
        kept = earlier[-self._keep :]
        _remove([path for path in self.paths() if path not in kept])
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

    def newest(self, *, check: Callable[[dict[str, Any], Path], object] | None = None) -> tuple[Path, dict[str, Any]] | None:
        """The newest good checkpoint, or None where there is none at all. Each damaged one before it is reported.

        Args:
            check: raises a UserError about a state that is not good.

        Raises:
            UserError: there are checkpoints, and all are damaged. Starting anew in their folder is the user's to decide.
        """
        candidates = self.paths()[::-1] + [path for path in [self.best_path] if path.exists()]
        for path in candidates:
            try:
                state = read_checkpoint(path, packed=True)
                check_shards(path, state, thoroughly=True)
                if check is not None:
                    check(state, path)
                self._check_name(path, state)
                return path, state
            except UserError as error:
                log.warning("%s; going back to the one before it", error)
        if candidates:
            raise UserError(f"{self._folder}: all {len(candidates)} checkpoints are damaged; move them away to start anew")
        return None

    def _check_name(self, path: Path, state: Mapping[str, Any]) -> None:
        if path != self.best_path and "progress" in state and (step := step_of(state, path)) != _step_of(path):
            raise UserError(f"{path}: is the checkpoint of step {step} under another's name")

    def best(self, map_location: torch.device | str = "cpu") -> tuple[Path, dict[str, Any]] | None:
        """The best checkpoint, or None where there is none.

        Raises:
            UserError: it is damaged.
        """
        return (self.best_path, self.load(self.best_path, map_location)) if self.best_path.exists() else None

    @staticmethod
    def load(path: Path | str, map_location: torch.device | str = "cpu") -> dict[str, Any]:
        """The state in a file; see :func:`dist_sparse.stored.read_checkpoint`."""
        return read_checkpoint(path, map_location)


def check_data(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Refuse with a UserError another data set than the checkpoint's: its order or its labels would be others.

    Returns:
        A warning where the checkpoint does not know its samples.
    """
    if differing := differences(saved, current):
        raise UserError(f"cannot resume with another data set: the checkpoint's has {', '.join(differing)}")
    if IDENTITY[-1] in saved:
        return []
    return ["the checkpoint is of a version that kept no names of classes and samples: the data set's are not compared"]


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


def check_world(saved: int, current: int, engine: Capabilities) -> list[str]:
    """A warning where the number of ranks has changed. It may: ``train.batch_size`` counts the samples of all ranks.

    What looks at one rank's share of a batch sees another one: batch norm its statistics, mixup its pairs, dropout its draws.

    Raises:
        UserError: with this engine it may not.
    """
    if saved == current:
        return []
    if engine.fixed_world:
        raise UserError(
            f"cannot resume on {current} ranks a run of {saved}: {engine.cause} has cut the optimizer's state into {saved} "
            f"parts ({engine.otherwise} keeps it whole)"
        )
    so_far = f"resuming on {current} ranks a run of {saved}: the batch stays the same, and results agree up to rounding"
    return [f"{so_far}; not so where batch norm, mixup, cutmix or dropout work on each rank's share of the batch"]


def check_same_storage(saved: Mapping[str, Any], current: Mapping[str, Any], engine: Capabilities) -> None:
    """Refuse with a UserError another storage where the engine's own files hold parameters in their sizes."""
    was, now = (config.get("execution.storage", "masked") for config in (saved, current))
    if was != now and engine.fixes_sizes:
        raise UserError(
            f"cannot resume with execution.storage={now} a run with {was}: {engine.cause} keeps the optimizer's state in the "
            f"sizes of its parameters; execution.storage={was} goes on"
        )


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _remove(paths: Iterable[Path]) -> None:
    """Remove all that can be removed.

    Raises:
        OSError: of the first that cannot, such as a folder in a file's place.
    """
    refused: OSError | None = None
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            refused = refused or error
    if refused is not None:
        raise refused


def _step_of(path: Path) -> int:
    match = _STEP_FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _check_plain(value: object, where: str) -> None:
    """Fail at the first save, not at the first resume, over a leaf that cannot be read back (such as NumPy's float)."""
    if isinstance(value, Tensor | PackedTensor) or type(value) in _SCALARS:
        return
    assert type(value) in (dict, OrderedDict, list, tuple), f"{where}: a {type(value).__name__} is not plain"
    if isinstance(value, dict):
        for key in value:
            assert type(key) in (str, int), f"{where}: key {key!r} is neither text nor a whole number"
    for key, each in value.items() if isinstance(value, dict) else enumerate(cast(Sequence[object], value)):
        _check_plain(each, f"{where}[{key!r}]")
