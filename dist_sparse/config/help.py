"""The text of ``--help``: every key with its meaning, accepted values and default, made from the schema."""

import shutil
import textwrap
from typing import Any

from pydantic import TypeAdapter

from dist_sparse.config.dump import to_flat
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import Leaf, leaves, nearest, sections
from dist_sparse.errors import UserError, did_you_mean

_USAGE = """\
Train a sparse network on one process or on many.

Usage:
  python -m dist_sparse.train [--config FILE] [--KEY=VALUE ...]
  torchrun --nproc-per-node=N -m dist_sparse.train [--config FILE] [--KEY=VALUE ...]

Options:
  --config FILE        read a YAML file over the defaults; its `base:` may name files to build on
  --print-config       show the resolved configuration, and where each value comes from, and leave
  --schema             print a JSON schema of configuration files, for editors
  --completion bash    print a script that completes keys in bash and zsh
  --plan[=RANKS]       tell without training and without the data what the run will do: steps, mask updates, densities,
                       FLOPs, memory, traffic; on so many ranks, or as many as torchrun starts
  --smoke              train a few steps of the recipe on a handful of images (random ones where the data is missing), to
                       see that it runs on this machine
  -h, --help [PREFIX]  show this text, or only the keys below a prefix such as `sparsity`

A key may also be written KEY=VALUE, --KEY VALUE, --FLAG for true, as a JSON object or as the name of a JSON file.
The last one wins.
LENGTH is a number of steps (500), '5 epochs' or '75%' of the run; LIST is [a, b]; MAP is {key: value}, or --KEY.NAME=VALUE.
"""
_KINDS = {"string": "TEXT", "integer": "INT", "number": "NUMBER", "boolean": "true|false", "array": "LIST", "object": "MAP"}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


def format_help(prefix: str = "", width: int | None = None) -> str:
    """The help text, wrapped to ``width`` columns (the terminal's, within 80 to 120); with a prefix, only the keys below it.

    Raises:
        UserError: no key begins with the prefix.
    """
    width = width or min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
    prefix = prefix.lstrip("-")
    wanted = [leaf for key, leaf in leaves().items() if not prefix or key == prefix or key.startswith(prefix.rstrip(".") + ".")]
    if not wanted:
        raise UserError(f"--help {prefix}: no such key or section; {did_you_mean(nearest(prefix), '--help lists every key')}")
    described, defaults = described_keys(), to_flat(Config())
    lines = [] if prefix else [textwrap.fill(line, width) for line in _USAGE.splitlines()]
    section = None
    for leaf in wanted:
        parent = leaf.key.rpartition(".")[0]
        if parent != section:
            lines += ["", _heading(parent, described)]
            section = parent
        lines += _entry(leaf, described[leaf.key], defaults[leaf.key], width)
    return "\n".join(lines).lstrip("\n") + "\n"


def described_keys() -> dict[str, dict[str, Any]]:
    """The JSON schema of every key and section by dotted path."""
    root = TypeAdapter(Config).json_schema()
    found: dict[str, dict[str, Any]] = {}

    def walk(node: dict[str, Any], prefix: str) -> None:
        for name, each in node["properties"].items():
            found[prefix + name] = each
            if prefix + name in sections():
                walk(root["$defs"][each["$ref"].rpartition("/")[2]], f"{prefix}{name}.")

    walk(root, "")
    return found


def _heading(section: str, described: dict[str, dict[str, Any]]) -> str:
    if not section:
        return "Run:"
    return f"{section}: {described[section].get('description', '')}".rstrip(": ")


def _entry(leaf: Leaf, schema: dict[str, Any], default: Any, width: int) -> list[str]:
    text = " ".join(schema.get("description", "").split())
    if default is not None:
        text += f" [default: {_shown(default)}]".replace("default: ", "default:\xa0")  # not to be wrapped between the two
    body = textwrap.wrap(text, width, initial_indent=" " * 10, subsequent_indent=" " * 10, break_on_hyphens=False)
    return [f"  --{leaf.key} {_kind(schema)}", *(line.replace("\xa0", " ") for line in body)]


def _kind(schema: dict[str, Any]) -> str:
    """The accepted values in a word or two: ``INT >= 1``, ``erk|er``, ``LIST of TEXT``."""
    if "anyOf" in schema:
        return "|".join(dict.fromkeys(_kind(each) for each in schema["anyOf"] if each.get("type") != "null"))
    if "enum" in schema or "const" in schema:
        return "|".join(str(each) for each in schema.get("enum", [schema.get("const")]))
    if schema.get("format") == "duration":
        return "LENGTH"
    kind = _KINDS.get(schema.get("type", ""), "VALUE")
    inner = schema.get("items") or schema.get("additionalProperties")
    if isinstance(inner, dict) and inner:
        kind += f" of {_kind(inner)}"
    bounds = [f"{sign} {schema[name]:g}" for name, sign in _BOUNDS.items() if name in schema]
    return " ".join([kind, " and ".join(bounds)]).rstrip()


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return str(default) if default != "" else "''"
