"""YAML in and out. Every value that is read remembers its file and line, for messages."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from dist_sparse.config.tree import sections
from dist_sparse.errors import UserError

# YAML 1.1, which PyYAML reads, takes `1e-3` for text, `on` for a boolean, `1:30` for a number and `2024-01-01` for a date.
# Reader and writer share the narrower rules of YAML 1.2, so that whatever is written reads back the same.
_RESOLVERS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|None|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}


@dataclass(frozen=True)
class Assignment:
    """A value for a dotted key, and where it came from. ``text``: a raw string from the command line, of no type yet."""

    key: str
    value: Any
    source: str
    text: bool = False


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's scalars, which refuses a key that stands twice in a mapping."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def __init__(self, stream: str):
        super().__init__(stream)
        self._checked: set[yaml.Node] = set()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            self.check_duplicates(node)
        return super().construct_mapping(node, deep)

    def check_duplicates(self, node: yaml.MappingNode) -> None:
        """Raise for a key that stands twice in the mapping as written, which is before `<<` is resolved."""
        if node in self._checked:
            return
        self._checked.add(node)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))


class Dumper(yaml.SafeDumper):
    """The writer that belongs to :class:`Loader`."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: Dumper, text: str) -> yaml.Node:
    # Unquoted and single-quoted YAML lose characters such as U+0085, which count as line breaks.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


Dumper.add_representer(str, _represent_text)
Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_int)
for _tag, (_pattern, _first) in _RESOLVERS.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def dump(tree: dict[str, Any]) -> str:
    """YAML text, keys in the order of the mapping."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def read_yaml(path: str, above: tuple[str, ...] = ()) -> list[Assignment]:
    """The assignments of a YAML file, after those of the files that its ``base:`` names (paths relative to the file).

    ``above`` are the files that led here. Keys come as written, dotted or nested.

    Raises:
        UserError: no such file, not YAML, a key twice, not a mapping, or files that name each other as base.
    """
    chain = (*above, path)
    if os.path.realpath(path) in map(os.path.realpath, above):
        raise UserError(f"{above[0]}: the base files go round in a circle: {' -> '.join(chain)}")
    text = _read_text(path, above)
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        pairs = _pairs(loader, node, path) if node is not None else []
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        raise UserError(_describe(path, error)) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    bases = [each for each in pairs if each.key == "base"]
    below = [each for base in bases for name in _base_names(base) for each in read_yaml(_beside(path, name), chain)]
    return [*below, *(each for each in pairs if each.key != "base")]


def read_json(path: str) -> list[Assignment]:
    """The assignments of a JSON file."""
    return parse_json(_read_text(path, ()), path)


def parse_json(text: str, source: str) -> list[Assignment]:
    """The assignments of a JSON object.

    Raises:
        UserError: not JSON, or not an object.
    """
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: not readable as JSON: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{source}: should be a JSON object of keys and values")
    return [Assignment(key, value, source) for key, value in tree.items()]


def _pairs(loader: Loader, node: yaml.Node, path: str) -> list[Assignment]:
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: should be a mapping of keys to values at the top level")
    pairs = list(_walk(loader, node, path, ""))
    seen: set[str] = set()
    for pair in pairs:  # dotted in one place and nested in another
        if pair.key in seen:
            raise UserError(f"{pair.source}: the key {pair.key!r} stands twice")
        seen.add(pair.key)
    return pairs


def _walk(loader: Loader, node: yaml.MappingNode, path: str, prefix: str) -> Iterator[Assignment]:
    """Nested mappings become dotted keys as far as the schema has sections, so that each key knows its line."""
    loader.check_duplicates(node)
    loader.flatten_mapping(node)
    # A key of its own stands behind the same key from a `<<`, and replaces it.
    for key_node, value_node in {key.value: (key, value) for key, value in node.value}.values():
        key = prefix + str(key_node.value)
        if key in sections() and isinstance(value_node, yaml.MappingNode):
            yield from _walk(loader, value_node, path, key + ".")
        else:
            source = f"{path}, line {key_node.start_mark.line + 1}"
            yield Assignment(key, loader.construct_object(value_node, deep=True), source)


def _base_names(base: Assignment) -> list[str]:
    names = [base.value] if isinstance(base.value, str) else base.value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"base={base.value!r} (from {base.source}): should be the path of a YAML file, or a list of paths")
    return names


def _beside(path: str, name: str) -> str:
    return os.path.normpath(Path(path).parent / name)


def _read_text(path: str, above: tuple[str, ...]) -> str:
    named = f" (named as base in {above[-1]})" if above else ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{named}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read{named}: {reason}") from None


def _describe(path: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = f", line {mark.line + 1}" if mark else ""
    return f"{path}{line}: {error.problem or error.context}"
