"""From lists of values by key to the runs that combine them."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_sparse.config import Config
from dist_sparse.config.tree import short_names
from dist_sparse.errors import UserError, shown

_DECIDED_ELSEWHERE = ("output", "resume")
_SPEAKS_FOR_ITSELF = ("sparsity.method", "sparsity.structure", "model.name", "data.name", "optim.name")
_MOST_RUNS = 100_000
_PAIRS = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True)
class Combination:
    """One value for each key; ``varied`` are the keys that have others elsewhere in the grid."""

    values: Mapping[str, str]
    varied: frozenset[str]

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.values.items() if key in self.varied) or "the only run"

    @property
    def config_file(self) -> str | None:
        return self.values.get("config")

    @property
    def overrides(self) -> list[str]:
        """The words beside ``--config`` and ``--name``."""
        return [f"--{key}={value}" for key, value in self.values.items() if key not in ("config", "name")]

    def name(self, config: Config) -> str:
        """A name that tells the run's values apart: ``digits-rigl-density0.1-seed2``."""
        stem, file = self.values.get("name"), _plain(Path(self.config_file or "").stem)
        if stem is None and "sparsity.method" not in self.varied:
            parts = [config.name]  # which is that of the configuration's file
        else:
            parts = [stem or config.data.name, *([file] if "config" in self.varied else [])]
        short = short_names(key for key in self.values if key in self.varied and key != "config")
        return "-".join([*parts, *(_label(key, name, self.values[key]) for key, name in short.items())])


def read_lists(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of each key from words such as ``--config=a.yaml,b.yaml`` and ``seed=1,2``.

    Commas within brackets do not separate, so that ``[0.9,0.95]`` is one value.

    Raises:
        UserError: a word of another form, a key twice, or a value that is empty, there twice or not on one line.
    """
    lists: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals or not key or key.startswith("-"):
            raise UserError(f"{word!r} is not understood; write key=value,value,... such as seed=1,2,3")
        if key in lists:
            raise UserError(f"{key} is given twice; its values go into one list: {key}={','.join(lists[key])},{text}")
        if key in _DECIDED_ELSEWHERE:
            raise UserError(f"{key} cannot be in a grid: what starts the runs decides on it, by each one's name")
        lists[key] = _split(key, text)
        if key == "name" and len(lists[key]) > 1:
            raise UserError(f"name={text}: should be one value, which the names of all runs begin with")
    return lists


def combine(lists: Mapping[str, Sequence[str]]) -> list[Combination]:
    """Every combination of the values; those of the last key vary fastest.

    Raises:
        UserError: there are too many.
    """
    count = math.prod(map(len, lists.values()))
    if count > _MOST_RUNS:
        raise UserError(f"the lists combine to {shown(count)} runs; a grid file holds at most {_MOST_RUNS:,}")
    varied = frozenset(key for key, values in lists.items() if len(values) > 1)
    return [Combination(dict(zip(lists, values, strict=True)), varied) for values in itertools.product(*lists.values())]


def _split(key: str, text: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    if not text.isprintable():
        raise UserError(f"{key}={text!r}: should be on one line, without control characters")
    values, closing = [""], list[str]()
    for character in text:
        if character == "," and not closing:
            values.append("")
            continue
        values[-1] += character
        if character in _PAIRS:
            closing.append(_PAIRS[character])
        elif character in _PAIRS.values() and (not closing or closing.pop() != character):
            raise UserError(f"{key}={text}: its brackets do not match")
    values = [value.strip() for value in values]
    if closing:
        raise UserError(f"{key}={text}: its brackets do not match")
    if "" in values:
        raise UserError(f"{key}={text}: has an empty value; write {key}=value,value,...")
    if twice := next((value for value in values if values.count(value) > 1), None):
        raise UserError(f"{key}={text}: has {twice} twice")
    return values


def _label(key: str, short: str, value: str) -> str:
    text = _plain(value)
    if key in _SPEAKS_FOR_ITSELF:
        return text
    return f"{short}{text}" if re.match(r"\.?\d", text) else f"{short}_{text}"


def _plain(text: str) -> str:
    """The text with underscores in the place of what a name may not have."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_") or "empty"
