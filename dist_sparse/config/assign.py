"""Assignments to dotted keys, applied to a configuration in order and checked against the schema."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from dist_sparse.config.files import Assignment
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import Leaf, dict_above, flat, leaves, nearest, sections
from dist_sparse.config.values import BadValue, convert, free
from dist_sparse.errors import UserError, did_you_mean, shown

_MOST_ERRORS = 8

Origins = dict[str, list[str]]
"""By dotted key, where its value comes from; of a mapping that several have added to, all of them. A default is not in it."""


def apply(
    config: Config, assignments: Iterable[Assignment], errors: Iterable[str] = (), origins: Origins | None = None
) -> Config:
    """The configuration after the assignments; the last one to a key wins, and mappings merge by key.

    ``errors`` were found on the way here, and are reported with those found now. ``origins`` are told where the values of keys
    come from.

    Raises:
        UserError: everything that is wrong, one line each.
    """
    values, found = dict(flat(config)), list(errors)
    for assignment in assignments:
        _assign(values, assignment, found, {} if origins is None else origins)
    if found:
        more = [f"... and {len(found) - _MOST_ERRORS} more"] if len(found) > _MOST_ERRORS else []
        raise UserError("\n".join([*found[:_MOST_ERRORS], *more]))
    return _build(Config, "", values)


def _build(cls: type, prefix: str, values: dict[str, Any]) -> Any:
    def value_of(key: str) -> Any:
        return _build(sections()[key], f"{key}.", values) if key in sections() else values[key]

    try:
        return cls(**{field.name: value_of(prefix + field.name) for field in fields(cls)})
    except ValueError as error:  # a check across several keys in __post_init__
        raise UserError(str(error)) from None


def _assign(values: dict[str, Any], assignment: Assignment, errors: list[str], origins: Origins) -> None:
    key, source = assignment.key, assignment.source
    try:
        if key in sections():
            for name, value in _mapping(assignment).items():
                _assign(values, replace(assignment, key=f"{key}.{name}", value=value, text=False), errors, origins)
        elif (leaf := leaves().get(key)) is not None:
            value = convert(leaf, assignment.value, text=assignment.text)
            merges = leaf.is_dict and value
            values[key] = _merge(values[key], value) if merges else value
            origins[key] = [*(origins.get(key, []) if merges else []), source]
        elif (leaf := dict_above(key)) is not None:
            values[leaf.key] = _merged(leaf, values[leaf.key], assignment)
            origins[leaf.key] = [*origins.get(leaf.key, []), source]
        else:
            hint = did_you_mean(nearest(key), "--help lists every key")
            errors.append(f"{shown(key)}: unknown key (from {assignment.source}); {hint}")
    except BadValue as error:
        path = key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.where)
        errors.append(f"{shown(path)}={shown(error.value)} (from {assignment.source}): {error}")


def _mapping(assignment: Assignment) -> dict[str, Any]:
    value = free(assignment.value) if assignment.text else assignment.value
    if value is None and not assignment.text:
        return {}  # a section in YAML whose keys are all commented out
    if not isinstance(value, dict):
        raise BadValue(f"is a section; give its keys, such as {_first_key(assignment.key)}", (), value)
    return value


def _first_key(section: str) -> str:
    return next(key for key in leaves() if key.startswith(section + "."))


def _merged(leaf: Leaf, current: dict[str, Any], assignment: Assignment) -> dict[str, Any]:
    """The dict key's value with one entry set. Where entries can be anything, dots nest; otherwise they belong to the name."""
    name = assignment.key.removeprefix(leaf.key + ".")
    value = free(assignment.value) if assignment.text else assignment.value
    path = name.split(".") if leaf.item is Any else [name]
    try:
        for part in reversed(path):
            value = {part: value}
        entry = convert(leaf, value, text=False)
    except BadValue as error:
        raise BadValue(str(error), (), error.value) from None
    return _merge(current, entry)


def _merge(current: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    def merged(key: str, value: Any) -> Any:
        old = current.get(key)
        return _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value

    return {**current, **{key: merged(key, value) for key, value in new.items()}}
