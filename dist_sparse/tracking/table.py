"""A CSV file that grows with the run, and that a resumed run goes on with as if it had never stopped."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dist_sparse.errors import UserError
from dist_sparse.files import atomic_write
from dist_sparse.tracking.recovery import Record, read_rows

log = logging.getLogger(__name__)

Value = float | int | str
Row = Mapping[str, Value]


class Table:
    """Rows by ascending step. Every write reaches the file at once, and a full disk does not end the run.

    Args:
        columns: all of them; the first is ``step``.
        resume_step: go on after this step. Later rows are cut off, and so is a line that a kill left half written. None: anew.
        saved: what :meth:`state_dict` gave at that step, by which lost rows are found and brought back.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], resume_step: int | None, saved: Mapping[str, Any] | None = None
    ) -> None:
        assert columns[0] == "step"
        self._path, self._columns = path, tuple(columns)
        kept: Sequence[Row] = [] if resume_step is None else read_rows(path, columns, resume_step, saved)
        self._step = int(kept[-1]["step"]) if kept else -1
        self._block: list[Row] = [row for row in kept if int(row["step"]) == self._step]
        self._record = Record(columns)
        self._record.add(_csv([self._columns]), 0)
        settled = kept[: len(kept) - len(self._block)]
        for _, rows in groupby(settled, key=lambda row: row["step"]):
            block = list(rows)
            self._record.add(self._text(block), len(block))
        before = _csv([self._columns]) + self._text(settled)
        # The file is `_settled` bytes that stay, then `_tail`: the last block, behind rows that a full disk held up.
        self._settled, self._held_up, self._tail = len(before), b"", self._text(self._block)
        try:
            atomic_write(path, lambda file: file.write(before + self._tail))
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        self._written, self._warned = True, False

    def write(self, step: int, rows: Sequence[Row]) -> None:
        """Set the rows of a step, be it the last one again or a later one. Floats are written so that they read back equal.

        A full disk is warned of once; what it held up is written as soon as there is room.
        """
        assert step >= self._step, f"{self._path.name}: step {step} comes after step {self._step}"
        if step > self._step:
            self._record.add(self._text(self._block), len(self._block))
            self._settled += len(self._tail) if self._written else 0
            self._held_up = b"" if self._written else self._tail
        self._step = step
        self._block = [{"step": step, **row} for row in rows]
        self._tail = self._held_up + self._text(self._block)
        self._written = self._put_tail()

    def merge(self, step: int, row: Row) -> None:
        """For a table of one row a step: add values to the step's row, which begins empty."""
        self.write(step, [{**self._block[0], **row} if step == self._step and self._block else row])

    def row(self, step: int | None) -> Row:
        """The cells of a table's last row that are not empty, if it is the row of this step."""
        if step != self._step or not self._block:
            return {}
        return {name: value for name, value in self._block[0].items() if name != "step" and value != ""}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the table."""
        return self._record.state_dict(self._text(self._block))

    def close(self) -> None:
        self._file.close()

    def _put_tail(self) -> bool:
        try:
            self._file.seek(self._settled)
            left = memoryview(self._tail)
            while left:
                left = left[self._file.write(left) :]
            self._file.truncate()
        except OSError as error:
            if not self._warned:
                log.warning("%s: %s; training goes on, and the rows are written when there is room", self._path, error.strerror)
            self._warned = True
            return False
        return True

    def _text(self, rows: Iterable[Row]) -> bytes:
        lines = []
        for row in rows:
            unknown = row.keys() - set(self._columns)
            assert not unknown, f"{self._path.name} has no column {', '.join(sorted(unknown))}"
            lines.append([_as_text(row[column]) if column in row else "" for column in self._columns])
        return _csv(lines)


def _csv(lines: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _as_text(value: Value) -> str:
    return float.__repr__(value) if isinstance(value, float) else str(value)
