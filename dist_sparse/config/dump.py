"""A configuration as plain values: flat, for logs and comparisons, and as YAML, for the run's folder."""

from typing import Any

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import flat
from dist_sparse.config.yaml_text import dump


def to_flat(config: Config) -> dict[str, Any]:
    """Every key's value by dotted path, in the order of the schema, as plain numbers, text, lists and mappings."""
    return {key: _plain(value) for key, value in flat(config)}


def dump_config(config: Config) -> str:
    """The whole configuration as YAML, in the order of the schema; it reads back as an equal :class:`Config`."""
    tree: dict[str, Any] = {}
    for key, value in to_flat(config).items():
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return dump(tree)


def _plain(value: Any) -> Any:
    if isinstance(value, Length):
        return str(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value
