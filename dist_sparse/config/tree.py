"""The schema seen as a flat table of dotted keys: what the parser, the help text and the flat views are made from."""

import difflib
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import Config

_MOST_PARTS = 8
"""A dotted key may have this many parts; the longest of the schema has fewer."""


@dataclass(frozen=True)
class Leaf:
    """One key. ``annotation`` is the full type with its bounds; ``type`` the bare one, without None and bounds."""

    key: str
    annotation: Any
    type: Any
    optional: bool

    @property
    def is_dict(self) -> bool:
        return (get_origin(self.type) or self.type) is dict

    @property
    def is_list(self) -> bool:
        return (get_origin(self.type) or self.type) is list

    @property
    def choices(self) -> tuple[Any, ...]:
        """The words of a key that takes a few words only; otherwise none."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def item(self) -> Any:
        """The annotation of the values of a dict."""
        return get_args(self.type)[1]


def _bare(annotation: Any) -> tuple[Any, bool]:
    """An annotation without its bounds and without None, and whether None was among its types."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        others = [each for each in get_args(annotation) if each is not type(None)]
        if len(others) < len(get_args(annotation)) and len(others) == 1:
            return _bare(others[0])[0], True
    return annotation, False


def _walk(cls: type, prefix: str) -> Iterator[tuple[str, Leaf | type]]:
    hints = get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        key, annotation = prefix + field.name, hints[field.name]
        if isinstance(annotation, type) and is_dataclass(annotation) and annotation is not Length:
            yield key, annotation
            yield from _walk(annotation, key + ".")
        else:
            yield key, Leaf(key, annotation, *_bare(annotation))


@cache
def leaves() -> dict[str, Leaf]:
    """Every key with a value, by dotted path, in the order of the schema."""
    return {key: leaf for key, leaf in _walk(Config, "") if isinstance(leaf, Leaf)}


@cache
def sections() -> dict[str, type]:
    """The dataclass of every section, by dotted path."""
    return {key: cls for key, cls in _walk(Config, "") if not isinstance(cls, Leaf)}


def dict_above(key: str) -> Leaf | None:
    """The dict field that a key such as ``model.kwargs.width`` reaches into."""
    parts = key.split(".")
    heads = (leaves().get(".".join(parts[:n])) for n in range(1, min(len(parts), _MOST_PARTS)))
    return next((leaf for leaf in heads if leaf is not None and leaf.is_dict), None)


def nearest(key: str, limit: int = 3) -> list[str]:
    """The keys most like a mistyped one, by the whole path or by its last part (``lr`` finds ``optim.lr``)."""
    known = [*leaves(), *sections()]
    last = key.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    close = difflib.get_close_matches(key, known, n=limit, cutoff=0.7)
    lasts = {each.rpartition(".")[2] for each in known}
    alike = difflib.get_close_matches(last, lasts, n=1, cutoff=0.75)
    tails = [each for each in known if each.rpartition(".")[2] in alike]
    return list(dict.fromkeys([*same, *close, *tails]))[:limit]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """What to call each key where there is little room: its last part, or all of it where another one ends alike."""
    lasts = {key: key.rpartition(".")[2] for key in keys}
    return {key: last if list(lasts.values()).count(last) == 1 else key for key, last in lasts.items()}


def flat(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of a config object, in the order of the schema; lengths stay :class:`Length`."""
    for field in fields(section):
        key, value = prefix + field.name, getattr(section, field.name)
        if key in sections():
            yield from flat(value, key + ".")
        else:
            yield key, value
