"""What a checkpoint says of its own contents: a line for each entry of its tree, which must still be true when it is read.

Checksums tell of bytes that have changed since a file was written. These lines tell of a file that was written anew with other
contents, by hand or by another program: an entry that is gone or new, of another kind, shape or dtype, no longer finite, or,
if it is not a tensor of floating point numbers, of another value.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dist_sparse.errors import UserError
from dist_sparse.sparsity.packed_tensor import PackedTensor

ENTRY = "contents"
"""Where a checkpoint holds them."""

_CONTAINERS = ("dict", "list", "tuple")
_SHOWN = 40
"""Letters of a value in a message."""


def contents_of(state: Mapping[str, Any]) -> dict[str, str]:
    """The lines by entry, such as ``method.masks.conv1.weight: [16, 3, 3, 3] uint8, digest ...``."""
    return {name: _line(value) for name, value in _entries("", state) if name}


def check_contents(state: dict[str, Any], path: Path) -> bool:
    """Compare a state that was read from ``path`` with what it says of itself, and take that out of it.

    Returns:
        False where it says nothing, as checkpoints of earlier versions.

    Raises:
        UserError: an entry is not what was saved; the message names it.
    """
    if ENTRY not in state:
        return False
    saved = state.pop(ENTRY)
    if not isinstance(saved, dict) or not all(isinstance(line, str) for line in saved.values()):
        raise UserError(f"{path}: entry '{ENTRY}' is {describe(saved)} instead of a line for each entry")
    now = contents_of(state)
    if differing := [name for name in {**saved, **now} if saved.get(name) != now.get(name)]:
        # Of a container that only lacks or has gained something, its entries tell more.
        telling = [name for name in differing if not _same_container(saved.get(name), now.get(name))] or differing
        more = f" ({len(telling) - 1} more entries differ)" if len(telling) > 1 else ""
        name = telling[0]
        raise UserError(f"{path}: entry '{name}' {_difference(saved.get(name), now.get(name))}{more}")
    return True


def describe(value: object) -> str:
    """A value of a checkpoint in a few words, for a message."""
    if isinstance(value, Tensor | PackedTensor):
        return f"[{', '.join(map(str, value.shape))}] {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict | list | tuple):
        return f"{next(name for name in _CONTAINERS if name in type(value).__name__.lower())} of {len(value)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _entries(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Every value of a tree with its place, a container before what it holds."""
    yield name, value
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _entries(f"{name}.{key}".lstrip(".") if isinstance(key, str) else f"{name}[{key!r}]", each)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _entries(f"{name}[{number}]", each)


def _line(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value) if isinstance(value, str | float) else describe(value)
    if value.is_floating_point() or value.is_complex():
        return describe(value) + ("" if bool(value.isfinite().all()) else ", not finite")
    content = value.detach().cpu().contiguous().numpy().tobytes()
    return f"{describe(value)}, digest {hashlib.blake2b(content, digest_size=8).hexdigest()}"


def _difference(saved: str | None, now: str | None) -> str:
    if now is None:
        return "is missing"
    if saved is None:
        return "was not saved with it"
    if saved.partition(", digest ")[0] == (told := now.partition(", digest ")[0]):
        return f"is {told}, but not the one that was saved"
    return f"is {_short(now)} instead of {_short(saved)}"


def _short(line: str) -> str:
    return line if len(line) <= _SHOWN + 20 else f"{line[:_SHOWN]}..."


def _same_container(saved: str | None, now: str | None) -> bool:
    kinds = [line.partition(" of ")[0] for line in (saved, now) if line is not None]
    return len(kinds) == 2 and kinds[0] == kinds[1] and kinds[0] in _CONTAINERS
