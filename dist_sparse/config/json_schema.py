"""The JSON schema of configuration files, by which editors complete and check keys: pydantic's, for what files may hold."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dist_sparse.config.dump import to_flat
from dist_sparse.config.duration import Length
from dist_sparse.config.help import described_keys
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import Leaf, leaves, sections

_LENGTH = r"^\s*([0-9]+|[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?\s*(steps?|st|epochs?|ep|%))\s*$"
_BASE = "A file, or a list of files, that this one builds on; paths are relative to it, or those of shipped recipes."

Schema = dict[str, Any]


def file_schema(words: Mapping[str, Sequence[str]]) -> Schema:
    """The schema (draft 7) of a whole file.

    It asks for the plain spelling of a value (``true``, not ``on``; ``0.1``, not ``'0.1'``), and cannot know what several keys
    together must be. Everything that ``--print-config`` writes fits it.

    Args:
        words: by dotted key of a text, all that it may be where that is known only outside of the configuration.
    """
    described, defaults = described_keys(), to_flat(Config())
    of_leaves = {key: _leaf(leaf, described[key], defaults[key], words.get(key, ())) for key, leaf in leaves().items()}
    root = _section("", of_leaves, described)
    root["properties"]["base"] = {**_or_list({"type": "string"}), "description": _BASE}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "dist_sparse",
        "description": "A configuration of python -m dist_sparse.train.",
        **root,
    }


def _section(prefix: str, of_leaves: Mapping[str, Schema], described: Mapping[str, Schema]) -> Schema:
    """Keys as nested mappings; further down also in dotted form, as patterns, so that editors do not offer each key twice."""
    properties, dotted = {}, {}
    for key, schema in of_leaves.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and "." in name:
            dotted[f"^{re.escape(name)}$"] = schema
        elif key.startswith(prefix):
            properties[name] = schema
        if key.startswith(prefix) and leaves()[key].is_dict:
            # An entry of a mapping, as in model.kwargs.width; deeper ones only where entries may be anything.
            entry = schema["additionalProperties"]
            dotted[rf"^{re.escape(name)}\..+$"] = entry if isinstance(entry, dict) else {}
    for key in sections():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and "." not in name:
            inner = _section(f"{key}.", of_leaves, described)
            properties[name] = {**inner, "type": ["object", "null"], "description": _prose(described[key])}
        elif key.startswith(prefix):
            dotted[f"^{re.escape(name)}$"] = {"type": ["object", "null"]}
    return {"type": "object", "properties": properties, "patternProperties": dotted, "additionalProperties": False}


def _leaf(leaf: Leaf, schema: Schema, default: Any, words: Sequence[str]) -> Schema:
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    accepted = [_as_written(_bare(each), leaf, words) for each in kinds]
    if leaf.optional:
        accepted.append({"type": "null"})
    made = accepted[0] if len(accepted) == 1 else {"anyOf": accepted}
    return {**made, "description": _prose(schema), "default": default}


def _bare(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name not in ("default", "description", "title")}


def _as_written(schema: Schema, leaf: Leaf, words: Sequence[str]) -> Schema:
    """What a file may hold for a kind of value: a length is also a number of steps, a list of one its only entry."""
    if leaf.type is Length or schema.get("format") == "duration":
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _LENGTH}]}
    if schema.get("type") == "array":
        item = schema.get("items", {})
        return _or_list(_as_written(item, Leaf(leaf.key, Any, Any, False), ()))
    if schema.get("type") == "object":
        return {"additionalProperties": True, **schema}
    if words:
        return {"enum": list(words)}
    if schema.get("type") == "string" and "enum" not in schema and "const" not in schema:
        return {**schema, "type": ["string", "number"]}  # `name: 2024` is text for a text key
    return schema


def _or_list(item: Schema) -> Schema:
    return {"anyOf": [{"type": "array", "items": item}, item]}


def _prose(schema: Schema) -> str:
    return " ".join(schema.get("description", "").split())
