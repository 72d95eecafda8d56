"""From a YAML file and the command line to a validated :class:`Config`, and back to YAML.

Whatever the source, everything becomes a list of assignments to dotted keys, applied in order: the base files, the file, the
command line. The last one wins; mappings merge by key, and an empty mapping empties a dict key such as ``model.kwargs``.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dist_sparse.config.assign import Origins, apply
from dist_sparse.config.command_line import Words, read_words
from dist_sparse.config.files import Assignment, read_yaml
from dist_sparse.config.help import format_help
from dist_sparse.config.recipes import find
from dist_sparse.config.schema import Config
from dist_sparse.errors import shown

_COMPLETION = "--completion"
_BASH = f"{_COMPLETION}=bash"


@dataclass(frozen=True)
class Invocation:
    """What a command line asks for."""

    config: Config
    print_config: bool = False
    schema: bool = False
    """Print the schema of configuration files."""
    completion: bool = False
    """Print the script that completes keys."""
    plan: int | None = None
    """Number of ranks to plan for, without training; 0: as many as there are. None trains."""
    smoke: bool = False
    """Train a few steps on a handful of images."""
    typed: frozenset[str] = frozenset()
    """Keys that stand on the command line."""
    origins: Origins = field(default_factory=dict)


def parse_args(argv: Sequence[str]) -> Invocation:
    """Read a command line (without the program's name); ``--help`` prints the keys and exits.

    Raises:
        UserError: everything that is wrong with it, one line each.
    """
    _help_if_asked(argv)
    argv = _completion_in_one_word(argv)
    asked = [word for word in argv if _is_request(word)]
    words = read_words([word for word in argv if not _is_request(word)])
    words.errors += [f"{word}: should be --completion bash" for word in asked if word.startswith(_COMPLETION) and word != _BASH]
    plan, origins = _ranks_to_plan(asked, words.errors), {}
    return Invocation(
        _load(words.config, words, origins),
        print_config="--print-config" in asked,
        schema="--schema" in asked,
        completion=_BASH in asked,
        plan=plan,
        smoke="--smoke" in asked,
        typed=frozenset(assignment.key for assignment in words.assignments),
        origins=origins,
    )


def load_config(path: str | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """The configuration of a YAML file (or the defaults) with overrides: command line words, or values by dotted key.

    Raises:
        UserError: everything that is wrong with them, one line each.
    """
    return _load(path, _as_words(overrides))


def with_values(config: Config, overrides: Sequence[str] | Mapping[str, Any]) -> Config:
    """A copy of a configuration with some values replaced: ``with_values(config, {"sparsity.density": 0.2})``.

    Raises:
        UserError: everything that is wrong with them, one line each.
    """
    words = _as_words(overrides)
    return apply(config, words.assignments, words.errors)


def _is_request(word: str) -> bool:
    """The word asks for something else than training, and is no key."""
    return word in ("--print-config", "--schema", "--plan", "--smoke") or word.startswith(("--plan=", _COMPLETION))


def _completion_in_one_word(argv: Sequence[str]) -> Sequence[str]:
    """``--completion bash`` as ``--completion=bash``."""
    if _COMPLETION not in argv:
        return argv
    place = argv.index(_COMPLETION)
    return [*argv[:place], "=".join(argv[place : place + 2]), *argv[place + 2 :]]


def _ranks_to_plan(asked: Sequence[str], errors: list[str]) -> int | None:
    plans = [word.partition("=")[2] for word in asked if word.startswith("--plan")]
    if not plans:
        return None
    if f"--plan={plans[-1]}" in asked and not re.fullmatch("[1-9][0-9]{0,5}", plans[-1]):
        errors.append(f"--plan={shown(plans[-1])} should be a number of ranks, such as --plan=8, or --plan alone")
        return None
    return int(plans[-1] or 0)


def _load(path: str | None, words: Words, origins: Origins | None = None) -> Config:
    below = read_yaml(find(path)) if path is not None else []
    return apply(Config(), [*below, *words.assignments], words.errors, origins)


def _as_words(overrides: Sequence[str] | Mapping[str, Any]) -> Words:
    if isinstance(overrides, Mapping):
        return Words([Assignment(key, value, "the given values") for key, value in overrides.items()])
    words = read_words(list(overrides))
    if words.config is not None:
        words.errors.append("--config is not accepted here; only values of keys are")
    return words


def _help_if_asked(argv: Sequence[str]) -> None:
    for position, word in enumerate(argv):
        flag, _, wanted = word.partition("=")
        if flag in ("-h", "--help"):
            following = "".join(argv[position + 1 : position + 2])
            sys.stdout.write(format_help(wanted or ("" if following.startswith("-") else following)))
            raise SystemExit(0)
