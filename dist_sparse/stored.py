"""Checkpoints as they are read back: whole files, the shards beside them, and weights that fit a model."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse import packed_state
from dist_sparse.contents import check_contents, describe
from dist_sparse.errors import UserError
from dist_sparse.files import damaged_record
from dist_sparse.inputs import check_file
from dist_sparse.sparsity.packed_tensor import PackedTensor

_ENTRIES = {"state_dict": dict, "method": dict, "progress": dict, "config": dict, "data": dict, "world_size": int}
_NAMED = 3
"""So many tensors of a kind are named in one line; the others are counted."""


def read_checkpoint(
    path: Path | str, map_location: torch.device | str = "cpu", *, mapped: bool = False, packed: bool = False
) -> dict[str, Any]:
    """The state in a file, each byte checked against checksums, and each entry against what it says of itself.

    Args:
        mapped: leave tensors on the disk until they are used.
        packed: leave sparse weights, and the optimizer's state of them, :class:`.PackedTensor` where the file packs them.

    Raises:
        UserError: no such file, or not a whole and sound checkpoint; the entry that is wrong is named.
    """
    check_file(Path(path), kind="checkpoint")
    try:
        with Path(path).open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                if (record := damaged_record(archive)) is not None:
                    raise zipfile.BadZipFile(f"checksum of {record!r} does not match")
            file.seek(0)
            source = path if mapped else file
            state = torch.load(source, map_location=map_location, weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever broken bytes make zipfile and torch trip over
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: not a sound checkpoint: {reason}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of this program, but a {type(state).__name__}")
    check_contents(state, Path(path))
    try:
        return packed_state.unpack_all_but_networks(state) if packed else packed_state.unpack(state)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a sound checkpoint: {error}") from None


def probe(path: Path) -> dict[str, Any]:
    """The state in a file whose tensors stay on the disk, after the same checks, those of the shards beside it included.

    Raises:
        UserError: as :func:`read_checkpoint` and :func:`check_shards`.
    """
    state = read_checkpoint(path, mapped=True, packed=True)
    check_shards(path, state, thoroughly=True)
    return state


def step_of(state: Mapping[str, Any], path: Path) -> int:
    """The steps that the run of a checkpoint had made; a UserError if it does not say."""
    progress = state.get("progress")
    step = progress.get("step") if isinstance(progress, dict) else None
    if type(step) is not int:
        raise UserError(f"{path}: entry 'progress.step' is {describe(step)} instead of a whole number")
    return step


def shards_name(step: int) -> str:
    """The folder beside the checkpoint of ``step`` steps."""
    return f"step_{step:08d}.shards"


def check_shards(path: Path, state: Mapping[str, Any], *, thoroughly: bool = False) -> Path | None:
    """The folder beside the checkpoint at ``path`` that holds the rest of its ``state``, or None if that is all.

    Raises:
        UserError: a file is not there, or not as long as it was, or (``thoroughly``) its checksums do not match.
    """
    if not (shards := state.get("shards")):
        return None
    if not isinstance(shards, dict):
        raise UserError(f"{path}: entry 'shards' is {describe(shards)} instead of sizes by file name")
    folder = path.parent / shards_name(step_of(state, path))
    for name, size in shards.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"{path}: cannot be resumed from: {file} is missing or not whole")
        if thoroughly and zipfile.is_zipfile(file):
            _check_sums(file, path)
    return folder


def _check_sums(file: Path, path: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            broken = damaged_record(archive) is not None
    except Exception:  # whatever broken bytes make zipfile trip over
        broken = True
    if broken:
        raise UserError(f"{path}: cannot be resumed from: checksums of {file} do not match")


def check_whole(state: Mapping[str, Any], path: Path) -> None:
    """Refuse with a UserError what is a sound file, but not of a run: plain weights, say, or another program's checkpoint."""
    if missing := _ENTRIES.keys() - state.keys():
        raise UserError(f"{path}: not a checkpoint of this program: it lacks {', '.join(sorted(missing))}")
    for name, kind in _ENTRIES.items():
        if type(value := state[name]) is not kind and not (kind is dict and isinstance(value, dict)):
            raise UserError(f"{path}: entry '{name}' is {describe(value)} instead of a {kind.__name__}")
    step_of(state, path)


def load_weights(model: nn.Module, weights: Mapping[str, Any], path: Path) -> None:
    """Give a model the weights of the checkpoint at ``path``; a UserError if they are another model's."""
    if misfits := misfits_of(weights, model.state_dict()):
        raise UserError(f"{path} does not fit the run's model: {'; '.join(misfits)}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # of a module with rules of its own
        raise UserError(f"{path} does not fit the run's model: {' '.join(str(error).split())}") from error


def misfits_of(weights: Mapping[str, Any], expected: Mapping[str, Tensor | PackedTensor]) -> list[str]:
    """What keeps ``weights`` from being those of the model whose tensors are ``expected``, a phrase for each kind."""
    shapes = [
        f"{name} {describe(weights[name])} instead of {describe(tensor)}"
        for name, tensor in expected.items()
        if name in weights and not _same_kind(weights[name], tensor)
    ]
    kinds = {
        "missing": [name for name in expected if name not in weights],
        "not of this model": [str(name) for name in weights if name not in expected],
        "of another shape or type": shapes,
    }
    return [f"{kind}: {first_of(names)}" for kind, names in kinds.items() if names]


def first_of(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def _same_kind(value: object, tensor: Tensor | PackedTensor) -> bool:
    """Another floating dtype is a conversion that the model makes."""
    return (
        isinstance(value, Tensor | PackedTensor)
        and value.shape == tensor.shape
        and value.dtype.is_floating_point == tensor.dtype.is_floating_point
        and _layout(value) == _layout(tensor)
    )


def _layout(tensor: Tensor | PackedTensor) -> torch.layout:
    return (tensor.values if isinstance(tensor, PackedTensor) else tensor).layout
