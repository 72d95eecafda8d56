"""A record of finished runs: a CSV file with a line for each, whose columns are the fields of a dataclass."""

import csv
import io
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Row = TypeVar("_Row", bound="DataclassInstance")


def read(path: Path, kind: type[_Row]) -> list[_Row]:
    """The rows of a record; none if there is no file yet."""
    if not path.exists():
        return []
    types = get_type_hints(kind)
    with path.open(newline="") as file:
        return [kind(**{name: types[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def append(path: Path, row: "DataclassInstance") -> None:
    """Add a row to a record, in one write: a study that is killed leaves whole lines."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(row)], lineterminator="\n")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.writeheader()
    writer.writerow(asdict(row))
    with path.open("a", newline="") as file:
        file.write(text.getvalue())
