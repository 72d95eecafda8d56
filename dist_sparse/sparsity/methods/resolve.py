"""From what the user gave in the sparsity section to what a method uses: defaults filled in, contradictions refused."""

import dataclasses
import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from dist_sparse.config.duration import Length
from dist_sparse.config.schema import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.drop_grow import DEFAULTS, DropAndGrow
from dist_sparse.sparsity.methods.mest import Mest
from dist_sparse.sparsity.methods.mest_bounds import resolve_bounds
from dist_sparse.sparsity.structures import STRUCTURES

_log = logging.getLogger(__name__)


def resolve(config: SparsityConfig) -> SparsityConfig:
    """Fill in the method's own defaults, and warn of keys that are set but do nothing.

    Raises:
        UserError: unknown method or structure, or a density that is missing or given twice.
    """
    method = _lookup("sparsity.method", config.method, METHODS)
    _lookup("sparsity.structure", config.structure, STRUCTURES)
    _warn_of_unused(config, method.uses)
    if "density" in method.uses:
        _check_density(config)
    if issubclass(method, DropAndGrow):
        update = config.update
        missing = {key: value for key, value in DEFAULTS[update.form].items() if getattr(update, key) is None}
        config = dataclasses.replace(config, update=dataclasses.replace(update, **missing))
    if issubclass(method, Mest):
        config = resolve_bounds(config)
    return config


def _warn_of_unused(config: SparsityConfig, uses: frozenset[str]) -> None:
    given = set(_given(config))
    for key in sorted(given - uses):
        _log.warning("sparsity.%s is set but method %s does not use it", key, config.method)
    given &= uses
    if "er_power" in given and config.distribution not in ("er", "erk"):
        _log.warning("sparsity.er_power is set but distribution %s does not use it", config.distribution)
    if "update.drop_floor" in given and config.update.drop_schedule == "constant":
        _log.warning("sparsity.update.drop_floor is set but drop_schedule constant does not use it")


def _given(config: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose value is not the default, the method's name aside."""
    default = type(config)()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Length):
            yield from _given(value, f"{field.name}.")
        elif field.name != "method" and value != getattr(default, field.name):
            yield f"{prefix}{field.name}"


def _check_density(config: SparsityConfig) -> None:
    if config.distribution == "table":
        if config.density is not None:
            raise UserError(
                "sparsity.density and sparsity.distribution=table exclude each other: the table gives every layer its density"
            )
        if not config.table:
            raise UserError("sparsity.distribution=table needs sparsity.table, such as {'*': 0.1}")
    elif config.density is None:
        raise UserError(f"sparsity.density is needed for method {config.method}: a number above 0 and up to 1, such as 0.1")
    elif config.table:
        raise UserError(f"sparsity.table needs sparsity.distribution=table, not {config.distribution}")


def _lookup(key: str, name: str, known: Mapping[str, type]) -> type:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(nearest)}; " if nearest else ""
        raise UserError(f"{key}={name!r} is unknown; {hint}known: {', '.join(known)}")
    return known[name]
