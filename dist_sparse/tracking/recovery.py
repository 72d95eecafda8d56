"""What a checkpoint keeps of a table, so that rows which the file has lost can be told and brought back."""

import csv
import hashlib
import logging
import stat
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from dist_sparse.errors import UserError

log = logging.getLogger(__name__)

KEPT = 1 << 19
"""Bytes of the end of a table that a checkpoint holds, before compression; all of a table that is no longer."""

Rows = list[dict[str, str]]


class Record:
    """The end of a table, in memory, and a digest of what lies before it."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._digest, self._bytes, self._rows = hashlib.blake2b(digest_size=16), 0, 0
        self._blocks: deque[tuple[bytes, int]] = deque()
        self._size = 0

    def add(self, block: bytes, rows: int) -> None:
        """The text of a step's ``rows``, which is complete; the first block is the line of names."""
        self._blocks.append((block, rows))
        self._size += len(block)
        while self._size - len(self._blocks[0][0]) >= KEPT:
            oldest, count = self._blocks.popleft()
            self._digest.update(oldest)
            self._bytes, self._rows, self._size = self._bytes + len(oldest), self._rows + count, self._size - len(oldest)

    def state_dict(self, last: bytes) -> dict[str, Any]:
        """For the checkpoint; ``last`` is the text of the step under way."""
        import torch

        end = bytearray(zlib.compress(b"".join(block for block, _ in self._blocks) + last))
        return {
            "columns": self._columns,
            "bytes_before": self._bytes,
            "rows": self._rows,
            "digest": self._digest.hexdigest(),
            "end": torch.frombuffer(end, dtype=torch.uint8),
        }


@dataclass(frozen=True)
class _Saved:
    columns: list[str]
    bytes_before: int
    rows: int
    digest: str
    end: bytes

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "_Saved":
        return cls(**{**state, "end": zlib.decompress(state["end"].numpy().tobytes())})


def read_rows(path: Path, columns: Sequence[str], last_step: int, saved: Mapping[str, Any] | None) -> Rows:
    """The rows of a table up to a step, as text by column; what the file has lost comes from what a checkpoint has ``saved``.

    Whatever cannot be had as it was is told in one warning.

    Raises:
        UserError: something that cannot be read lies in the file's place.
    """
    content = _content(path)
    kept, told = Rows(), list[str]()
    if saved is None:
        names, lines = _lines(content or b"")
        kept = _whole(names, lines, last_step)
        later = len(_whole(names, lines, None)) - len(kept)
        if strange := max(0, len(lines) - len(kept) - later):
            told.append(f"{strange} lines that are no rows are left out")
    else:
        kept, told = _restored(content, _Saved.of(saved), last_step)
    if unknown := [name for name in (kept[0] if kept else {}) if name not in columns]:
        told.append(f"this version does not write the columns {', '.join(unknown)}: they are left out")
    if told:
        log.warning("%s: %s", path, "; ".join(told))
    return [{name: text for name, text in row.items() if name in columns} for row in kept]


def whole_rows(path: Path) -> Rows:
    """The rows of a table that are whole, which a run may be writing meanwhile; none if it is not there.

    Raises:
        UserError: something that cannot be read lies in its place.
    """
    return _whole(*_lines(_content(path) or b""), None)


def intact(path: Path, saved: Mapping[str, Any]) -> bool:
    """Whether a file begins with the table that a checkpoint has ``saved``."""
    kept = _Saved.of(saved)
    try:
        content = _content(path) or b""
    except UserError:
        return False
    return _digest(content[: kept.bytes_before]) == kept.digest and content[kept.bytes_before :].startswith(kept.end)


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _content(path: Path) -> bytes | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a regular file, as the run's table is; move it away")
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _restored(content: bytes | None, saved: _Saved, last_step: int) -> tuple[Rows, list[str]]:
    """The rows that there were at the checkpoint, and what is to be told of them."""
    there = content or b""
    head, end = there[: saved.bytes_before], there[saved.bytes_before :][: len(saved.end)]
    head_is_whole = _digest(head) == saved.digest
    ends = _whole(saved.columns, _split(saved.end), None)
    if head_is_whole:
        kept = _whole(saved.columns, _split(head), None) + ends
        if end == saved.end:
            return kept, []
    names, lines = _lines(there)
    found = {tuple(row.items()) for row in _whole(names, lines, None)}
    told = []
    lost = [row["step"] for row in ends if tuple(row.items()) not in found and int(row["step"]) < last_step]
    if lost or content is None:
        what = "the file was gone" if content is None else f"rows of {_steps(lost)} were gone or changed"
        told.append(f"{what}; they are as the checkpoint holds them")
    if not head_is_whole:
        first = int(ends[0]["step"]) if ends else last_step + 1
        kept = _whole(names, lines, first - 1) + ends
        gone = saved.rows - (len(kept) - len(ends))
        what = f"{gone} of {saved.rows} rows are lost" if gone > 0 else "rows are not as they were written"
        told.append(f"before step {first}, {what}")
    return kept, told


def _lines(content: bytes) -> tuple[list[str], list[list[str]]]:
    """Names and lines of a file. After a power cut its end can be zeros; after a kill, half a line."""
    lines = _split(content[: content.rfind(b"\n") + 1])
    return (lines[0], lines[1:]) if lines else ([], [])


def _split(content: bytes) -> list[list[str]]:
    """The fields of each line. None of ours holds a line break, so a stray quote spoils one line only."""
    text = content.replace(b"\0", b"").decode(errors="replace")
    return [_fields(line) for line in text.split("\n")[:-1]]


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _whole(names: Sequence[str], lines: Iterable[Sequence[str]], last_step: int | None) -> Rows:
    """The lines that are rows: as many fields as names, and a step, not later than the last and not before the one above."""
    rows, step = Rows(), 0
    for line in lines:
        row = dict(zip(names, line, strict=False))
        if len(line) != len(names) or not (text := row.get("step", "")).isascii() or not text.isdecimal() or len(text) > 18:
            continue
        if int(text) >= step and (last_step is None or int(text) <= last_step):
            rows.append(row)
            step = int(text)
    return rows


def _steps(steps: Sequence[str]) -> str:
    """Steps in words, runs of rows as the first and the last of them."""
    each = [step for step, _ in groupby(steps)]
    return f"step {each[0]}" if len(each) == 1 else f"{len(each)} steps from {each[0]} to {each[-1]}"
