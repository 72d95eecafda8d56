"""The YAML that configurations are written in: PyYAML's safe subset with YAML 1.2's scalars, read with limits."""

import re
from typing import Any, ClassVar, cast

import yaml
from yaml.constructor import ConstructorError

from dist_sparse.inputs import MOST_LEVELS, too_deep

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
_MOST_NODES = 100_000
"""A file may have this many nodes. An alias (`*name`) counts as all that its anchor stands for: aliases of aliases multiply."""


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what would never end or means two things, and says on which line it stands.

    A key that stands twice in a mapping or is none, an anchor within itself, anchors that multiply, depth without an end.

    Raises:
        yaml.YAMLError: for whatever is wrong.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def __init__(self, stream: str):
        super().__init__(stream)
        self._checked: set[yaml.Node] = set()
        self._open: list[str | None] = []
        """The anchors of the nodes that are being composed, from the outermost one on."""
        self._counts: dict[yaml.Node, int] = {}
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = cast(yaml.NodeEvent, self.peek_event())
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self._open:
                raise ConstructorError(None, None, f"the anchor {event.anchor!r} contains itself", event.start_mark)
            node = super().compose_node(parent, index)
            self._count += self._counts.get(node, 1) if node else 1
        else:
            if len(self._open) >= MOST_LEVELS:
                raise ConstructorError(None, None, too_deep(), event.start_mark)
            before = self._count
            self._count += 1
            self._open.append(event.anchor)
            node = super().compose_node(parent, index)
            self._open.pop()
            if node is not None:
                self._counts[node] = self._count - before
        if self._count > _MOST_NODES:
            raise ConstructorError(None, None, f"more than {_MOST_NODES:,} values, aliases included", event.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            # PyYAML looks at no scalar before it builds what its tag says: `!!bool maybe`, `!!int x`, a number too long.
            kind = node.tag.rpartition(":")[2]
            text = node.value if isinstance(node.value, str) else "this"
            text = text if len(text) <= 40 else f"{text[:40]}..."
            raise ConstructorError(None, None, f"{text!r} cannot be read as {kind}", node.start_mark) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        self._check_keys(node)
        super().flatten_mapping(node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        """Raise for a key that is no scalar or stands twice in the mapping as written, which is before `<<` is resolved."""
        if node in self._checked:
            return
        self._checked.add(node)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key should be text, not a list or a mapping", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} stands twice", key.start_mark)
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


def load(text: str) -> Any:
    """What YAML text means.

    Raises:
        yaml.YAMLError: it is none, or beyond the limits.
    """
    return yaml.load(text, Loader)


def dump(tree: dict[str, Any]) -> str:
    """YAML text, keys in the order of the mapping."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)
