"""A configuration as YAML whose comments say where each value comes from; read back, it is the same configuration."""

from collections.abc import Iterator

import yaml

from dist_sparse.config.assign import Origins
from dist_sparse.config.dump import dump_config, to_flat
from dist_sparse.config.schema import Config
from dist_sparse.config.tree import sections
from dist_sparse.config.yaml_text import Loader
from dist_sparse.errors import one_line

_COLUMN = 40


def annotated(given: Config, resolved: Config, origins: Origins) -> str:
    """The resolved configuration with comments: file and line, the command line, what filled in a default, or ``default``.

    Args:
        given: what the user gave, over the schema's defaults, to tell what was filled in.
        origins: where the given values come from.
    """
    text, notes = dump_config(resolved), _notes(given, resolved, origins)
    lines = text.splitlines()
    # From the end, so that inserted lines leave the numbers of those before them as they are.
    for key, node, value in reversed(list(_leaves(Loader(text).get_single_node(), ""))):
        number, note = node.start_mark.line, f"# {one_line(notes[key])}"
        if isinstance(value, yaml.ScalarNode) and value.end_mark.line > value.start_mark.line:
            lines.insert(number, " " * node.start_mark.column + note)  # text on several lines has no room for a comment
        else:
            lines[number] = f"{lines[number]:<{_COLUMN}}  {note}"
    return "\n".join(lines) + "\n"


def _notes(given: Config, resolved: Config, origins: Origins) -> dict[str, str]:
    """By dotted key, where its value comes from."""
    before, notes = to_flat(given), {}
    fills = {
        "sparsity": f"method {resolved.sparsity.method}",
        "engine": f"engine {resolved.engine.name}",
        "data": "the weights that the run starts from" if _starts_from_weights(given) else f"data set {resolved.data.name}",
    }
    for key, value in to_flat(resolved).items():
        sources = list(dict.fromkeys(origins.get(key, [])))
        if value != before[key]:
            sources.append(fills[key.partition(".")[0]])
        notes[key] = ", ".join(sources) or "default"
    return notes


def _starts_from_weights(config: Config) -> bool:
    return config.model.pretrained or config.model.checkpoint is not None


def _leaves(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Dotted key, and the nodes of the key and its value, in the order of the text."""
    assert isinstance(node, yaml.MappingNode)
    for name, value in node.value:
        key = prefix + name.value
        if key in sections():
            yield from _leaves(value, key + ".")
        else:
            yield key, name, value
