"""One value from text, JSON or YAML to the type of its key."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dist_sparse.config.duration import Length
from dist_sparse.config.files import Loader
from dist_sparse.config.tree import Leaf, leaves

_NONE_WORDS = ("None", "none", "null")
_MESSAGES = {
    "int_": "should be a whole number",
    "float_": "should be a number",
    "bool_": "should be true or false",
    "string_": "should be text",
    "list_": "should be a list",
    "dict_": "should be a mapping",
    "finite_": "should be a finite number",
}
_WRONG_KIND = ("_type", "_parsing", "_from_float")


class BadValue(Exception):
    """A value that its key refuses; ``where`` is the position inside a list or mapping, ``value`` what stands there."""

    def __init__(self, message: str, where: tuple[int | str, ...], value: Any):
        super().__init__(message)
        self.where, self.value = where, value


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    leaf = leaves()[key]
    # pydantic refuses a config for a dataclass, which a length is.
    return TypeAdapter(leaf.annotation, config=None if leaf.type is Length else ConfigDict(allow_inf_nan=False))


def convert(leaf: Leaf, value: Any, *, text: bool) -> Any:
    """The value as the key's type. ``text`` says that it is a raw string from the command line.

    Readings are tried in order, and the type decides: ``2024`` stays text for a text key and is a number for a number key.

    Raises:
        BadValue: no reading fits.
    """
    if text and leaf.optional and value in _NONE_WORDS:
        return None
    errors: list[BadValue] = []
    for candidate in _readings(leaf, value, text):
        try:
            if isinstance(candidate, bool) and leaf.type in (int, float):  # which pydantic would take for 0 and 1
                raise BadValue(_MESSAGES["int_" if leaf.type is int else "float_"], (), value)
            return _adapter(leaf.key).validate_python(plain(candidate))
        except ValidationError as error:
            errors.append(_bad_value(error))
        except BadValue as error:
            errors.append(error)
    # A reading of the right kind but out of range explains more than one of the wrong kind, and a part more than the whole.
    raise min(errors, key=lambda error: (str(error) in _MESSAGES.values(), not error.where))


def free(value: str) -> Any:
    """Text for a key of any type (``model.kwargs.width=2``): a Python or YAML literal where it is one."""
    return plain(next(_literals(value), value))


def plain(value: Any) -> Any:
    """The value in the types that YAML and JSON share, so that a dumped config reads back the same: tuples become lists."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str, Length)):
        return value
    raise BadValue("should be made of numbers, text, lists and mappings", (), value)


def _readings(leaf: Leaf, value: Any, text: bool) -> Iterator[Any]:
    yield value
    if text:
        yield from _literals(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and leaf.type is str:
        yield str(value)  # `name: 2024` in YAML or JSON means what `--name=2024` means
    if not leaf.is_list or value is None or (text and value in _NONE_WORDS):
        return
    if isinstance(value, str):
        unbracketed = value.strip().removeprefix("[").removesuffix("]")  # [first,*.conv1.*] is a list that YAML does not read
        yield [part.strip() for part in unbracketed.split(",")]
    elif not isinstance(value, (list, tuple, dict)):
        yield [value]


def _literals(value: str) -> Iterator[Any]:
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        yield ast.literal_eval(value.strip())
    with suppress(yaml.YAMLError, ValueError):
        yield yaml.load(value, Loader)


def _bad_value(error: ValidationError) -> BadValue:
    """The first of pydantic's complaints in our words."""
    first = error.errors(include_url=False)[0]
    kind, message = first["type"], first["msg"]
    where = tuple(part for part in first["loc"] if part != "[key]")
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
    elif kind.endswith((*_WRONG_KIND, "_number")):
        message = next((text for prefix, text in _MESSAGES.items() if kind.startswith(prefix)), message)
    return BadValue(message.replace("Input should be", "should be"), where, first["input"])
