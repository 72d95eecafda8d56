"""The configuration of a run as what differs from its recipe and from the defaults."""

import shlex
from collections.abc import Mapping
from typing import Any

from dist_sparse.config import Config, load_config, to_flat, with_values
from dist_sparse.errors import UserError
from dist_sparse.report import words
from dist_sparse.report.page import Folded, Section, Table

_ASIDE = ("name", "output", "resume")
"""Keys that no recipe decides."""
_DECISIVE = ("sparsity.method", "sparsity.density", "data.name", "engine.name")
"""Keys on whose values the defaults of others depend, or without which a method has none."""


def recipe_of(environment: Mapping[str, Any]) -> str | None:
    """The file that the run's command line names as its configuration."""
    try:
        command = shlex.split(str(environment.get("command", "")))
    except ValueError:
        return None
    for number, word in enumerate(command):
        if word == "--config" and number + 1 < len(command):
            return command[number + 1]
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def settings_section(config: Config, environment: Mapping[str, Any]) -> Section:
    """Tables of what differs. The recipe is read as it is now, from where the run has read it."""
    values, defaults = to_flat(config), _defaults(config)
    parts: list[Any] = []
    if (recipe := recipe_of(environment)) is not None:
        try:
            given = to_flat(_resolved(load_config(recipe)))
        except UserError as error:
            parts.append(f"The recipe cannot be read any more: {error}.")
        else:
            own = {key for key, value in values.items() if key not in _ASIDE and value != given[key]}
            rows = [[key, words.value(values[key]), words.value(given[key])] for key in values if key in own]
            if rows:
                parts += [
                    f"Differs from its recipe, {recipe}, in:",
                    Table(head=["key", "this run", "recipe"], rows=rows, texts=3),
                ]
            else:
                parts.append(f"As its recipe, {recipe}, says.")
    changed = [key for key, value in values.items() if key not in _ASIDE and value != defaults[key]]
    rows = [[key, words.value(values[key]), words.value(defaults[key])] for key in changed]
    parts += ["Differs from the defaults in:", Table(head=["key", "this run", "default"], rows=rows, texts=3)]
    every = [[key, words.value(value)] for key, value in values.items()]
    parts.append(Folded(summary="All keys", part=Table(head=["key", "value"], rows=every, texts=2)))
    return Section(title="Configuration", parts=parts)


def _defaults(config: Config) -> dict[str, Any]:
    """What a run gets that sets no other key than those on which defaults depend; those count as set."""
    plain, values = to_flat(Config()), to_flat(config)
    decisive = {key: values[key] for key in _DECISIVE if values[key] is not None}
    try:
        derived = to_flat(_resolved(with_values(Config(), decisive)))
    except UserError:  # a method that has to be told more
        derived = plain
    return {**derived, **{key: plain[key] for key in _DECISIVE}}


def _resolved(config: Config) -> Config:
    from dist_sparse.build import resolved

    return resolved(config)


def environment_section(environment: Mapping[str, Any]) -> Section:
    """Where and with what the run was made; a resumed run tells of its last start."""
    packages, git = environment.get("packages"), environment.get("git")
    rows = [
        ["command", words.value(environment.get("command"))],
        ["host", words.value(environment.get("host"))],
        ["system", words.value(environment.get("system"))],
        [
            "devices",
            ", ".join(map(words.value, devices)) if isinstance(devices := environment.get("devices"), list) else words.NONE,
        ],
        ["Python", words.value(environment.get("python"))],
        *([str(name), words.value(version)] for name, version in (packages.items() if isinstance(packages, dict) else ())),
    ]
    if isinstance(git, dict):
        rows.append(["commit", f"{words.value(git.get('commit'))}{', with changes' if git.get('dirty') else ''}"])
    return Section(title="Environment", parts=[Table(head=["", ""], rows=rows, texts=2)])
