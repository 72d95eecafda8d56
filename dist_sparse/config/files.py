"""Files of keys and values, YAML or JSON. Every value that is read remembers its file and line, for messages."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dist_sparse.config.recipes import shipped
from dist_sparse.config.tree import sections
from dist_sparse.config.yaml_text import Loader
from dist_sparse.errors import UserError, shown
from dist_sparse.inputs import expand, is_there, parse_json, read_text

_MOST_FILES = 100
"""That one builds on, each counted as often as it is named."""


@dataclass(frozen=True)
class Assignment:
    """A value for a dotted key, and where it came from. ``text``: a raw string from the command line, of no type yet."""

    key: str
    value: Any
    source: str
    text: bool = False


def read_yaml(path: str) -> list[Assignment]:
    """The assignments of a YAML file, after those of the files that its ``base:`` names (paths relative to the file).

    Keys come as written, dotted or nested.

    Raises:
        UserError: no such file, not YAML, a key twice, not a mapping, or files that name each other as base.
    """
    return _read_yaml(path, (), [])


def _read_yaml(path: str, above: tuple[str, ...], files: list[str]) -> list[Assignment]:
    """``above`` are the files that led here, ``files`` all that have been read."""
    chain = (*above, path)
    files.append(path)
    if len(files) > _MOST_FILES:
        raise UserError(f"{chain[0]}: builds on more than {_MOST_FILES} files")
    text = read_text(expand(path), path, f" (named as base in {above[-1]})" if above else "")
    if os.path.realpath(expand(path)) in (os.path.realpath(expand(each)) for each in above):
        raise UserError(f"{above[0]}: the base files go round in a circle: {' -> '.join(chain)}")
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        pairs = _pairs(loader, node, path) if node is not None else []
    except yaml.YAMLError as error:
        raise UserError(_describe(path, text, error)) from None
    bases = [each for each in pairs if each.key == "base"]
    below = [each for base in bases for name in _base_names(base) for each in _read_yaml(_beside(path, name), chain, files)]
    return [*below, *(each for each in pairs if each.key != "base")]


def read_json_keys(path: str) -> list[Assignment]:
    """The assignments of a JSON file."""
    return _of_object(parse_json(read_text(expand(path), path), path, is_file=True), path)


def json_keys(text: str, source: str) -> list[Assignment]:
    """The assignments of a JSON object.

    Raises:
        UserError: not JSON, or not an object.
    """
    return _of_object(parse_json(text, source), source)


def _of_object(tree: Any, source: str) -> list[Assignment]:
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
    loader.flatten_mapping(node)
    # A key of its own stands behind the same key from a `<<`, and replaces it.
    for key_node, value_node in {key.value: (key, value) for key, value in node.value}.values():
        key = prefix + str(key_node.value)
        if key in sections() and isinstance(value_node, yaml.MappingNode):
            yield from _walk(loader, value_node, path, key + ".")
        else:
            source = f"{path}:{key_node.start_mark.line + 1}"
            yield Assignment(key, loader.construct_object(value_node, deep=True), source)


def _base_names(base: Assignment) -> list[str]:
    names = [base.value] if isinstance(base.value, str) else base.value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"base={shown(base.value)} (from {base.source}): should be the path of a YAML file, or a list of paths")
    return names


def _beside(path: str, name: str) -> str:
    """The file of a base's name, beside the one that names it, or shipped."""
    beside = Path(os.path.normpath(expand(path).parent / expand(name)))
    return str(beside) if is_there(beside) else shipped(name) or str(beside)


def _describe(path: str, text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = str(error.problem or error.context)
        problem = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        return f"{path}{line}: {' '.join(problem.split())}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"{path}:{line}: not readable as YAML: the character {chr(error.character)!r} is not allowed"
    return f"{path}: not readable as YAML: {' '.join(str(error).split())}"
