"""The words of a command line as assignments to dotted keys, in every form that people and W&B agents write them."""

from dataclasses import dataclass, field

from dist_sparse.config.files import Assignment, json_keys, read_json_keys
from dist_sparse.config.tree import leaves, sections
from dist_sparse.errors import UserError

_SOURCE = "the command line"
_BOOLEAN_WORDS = ("true", "false", "none", "null", "yes", "no", "on", "off", "1", "0")


@dataclass
class Words:
    """What the words say: assignments, the file that ``--config`` names, and a line for each word that makes no sense."""

    assignments: list[Assignment] = field(default_factory=list)
    config: str | None = None
    errors: list[str] = field(default_factory=list)

    def _add(self, key: str, value: str) -> None:
        if key != "config":
            self.assignments.append(Assignment(key, value, _SOURCE, text=True))
        elif not value:
            self.errors.append("--config needs a value: --config=FILE")
        elif self.config is not None:
            self.errors.append("--config is given twice; a YAML file names the file it builds on in its `base:` key")
        else:
            self.config = value


def read_words(words: list[str]) -> Words:
    """Read ``--key=value``, ``--key value``, ``--flag``, ``key=value``, JSON objects and names of JSON files."""
    read, position = Words(), 0
    while position < len(words):
        word, following = words[position], words[position + 1 : position + 2]
        position += 1
        # Hydra's `+key=value` and `++key=value` are among the forms that a W&B agent can be told to emit.
        key, equals, value = word.removeprefix("--").lstrip("+").partition("=")
        try:
            if word.lstrip().startswith("{"):
                read.assignments += json_keys(word, _SOURCE)
            elif equals and key and not key.startswith("-"):
                read._add(key, value)
            elif word.startswith("--") and key:
                takes = _takes(key, following)
                read._add(key, following[0] if takes else "true")
                position += takes
            elif word.endswith(".json"):
                read.assignments += read_json_keys(word)
            else:
                wanted = f"--config={word}" if word.endswith((".yaml", ".yml")) else "--key=value (--help lists the keys)"
                read.errors.append(f"{word!r} is not understood; write {wanted}")
        except UserError as error:
            read.errors.append(str(error))
    return read


def _takes(key: str, following: list[str]) -> bool:
    """Whether the next word belongs to ``--key``; without one, only a key that can be true may stand alone."""
    word = following[0] if following and not following[0].startswith("--") else None
    leaf = leaves().get(key)
    if leaf is not None and leaf.type is bool:
        return word is not None and word.lower() in _BOOLEAN_WORDS
    if key != "config" and leaf is None and key not in sections():
        # The value of an entry of a dict key, or of a key that will be reported as unknown.
        return word is not None and "=" not in word and not word.startswith("{") and not word.endswith(".json")
    if word is None:
        raise UserError(f"--{key} needs a value: --{key}=VALUE")
    return True
