"""One value from text, JSON or YAML to the type of its key."""

import ast
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from dist_sparse.config.duration import Length
from dist_sparse.config.tree import Leaf, leaves
from dist_sparse.config.yaml_text import load
from dist_sparse.inputs import MOST_LEVELS, too_deep

_NONE_WORDS = ("None", "none", "null")
_MESSAGES = {
    "int_": "should be a whole number",
    "float_": "should be a number",
    "bool_": "should be true or false",
    "string_": "should be text",
    "list_": "should be a list",
    "dict_": "should be a mapping",
    "finite_": "should be a finite number",
    "string_unicode": "should be text of Unicode characters, without NUL",
}
_TOO_LARGE = 1 << 63
_WRONG_KIND = ("_type", "_parsing", "_parsing_size", "_from_float")


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
    if text and leaf.optional and value in _NONE_WORDS and value not in leaf.choices:
        return None
    errors: list[BadValue] = []
    for candidate in _readings(leaf, value, text):
        try:
            if isinstance(candidate, bool) and leaf.type in (int, float):  # which pydantic would take for 0 and 1
                raise BadValue(_MESSAGES["int_" if leaf.type is int else "float_"], (), value)
            return plain(_adapter(leaf.key).validate_python(plain(candidate)))
        except ValidationError as error:
            errors.append(_bad_value(error))
        except BadValue as error:
            errors.append(error)
    # A reading of the right kind but out of range explains more than one of the wrong kind, and a part more than the whole.
    raise min(errors, key=lambda error: (str(error) in _MESSAGES.values(), not error.where))


def free(value: str) -> Any:
    """Text for a key of any type (``model.kwargs.width=2``): a Python or YAML literal where it is one."""
    return plain(next(_literals(value), value))


def plain(value: Any, level: int = 1) -> Any:
    """The value in the types that YAML and JSON share, so that a dumped config reads back the same: tuples become lists."""
    if isinstance(value, (dict, list, tuple)):
        if level > MOST_LEVELS:
            raise BadValue(f"has {too_deep()}", (), value)
        if isinstance(value, dict):
            return {plain(key if isinstance(key, str) else str(key)): plain(each, level + 1) for key, each in value.items()}
        return [plain(each, level + 1) for each in value]
    if isinstance(value, str) and not _is_writable(value):
        raise BadValue("should be text of Unicode characters, without NUL", (), value)
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise BadValue("should be a number of less than 64 bits", (), value)
    if value is None or isinstance(value, (bool, int, float, str, Length)):
        return value
    raise BadValue("should be made of numbers, text, lists and mappings", (), value)


def _is_writable(text: str) -> bool:
    """Files and file names can hold the text: no NUL, and no half of a character, as bytes that are not UTF-8 give."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


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
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        yield _python_literal(value.strip())
    with suppress(yaml.YAMLError):
        yield load(value)


def _python_literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes such as '\d'
        return ast.literal_eval(text)


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
