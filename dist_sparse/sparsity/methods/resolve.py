"""From what the user gave in the sparsity section to what a method uses: defaults filled in, contradictions refused."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from dist_sparse.config.duration import Length
from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError, is_unknown
from dist_sparse.sparsity.method import Method
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.combinations import settle_structure
from dist_sparse.sparsity.methods.defaults import ActsByConfig, Completes, Derives
from dist_sparse.sparsity.methods.snip import shares_out_nothing

_log = logging.getLogger(__name__)


def resolve(config: SparsityConfig) -> SparsityConfig:
    """Fill in the method's own defaults, and warn of keys that are set but do nothing.

    Raises:
        UserError: unknown method or structure, two that cannot go together, or a density that is missing or given twice.
    """
    method: type[Method] = _lookup("sparsity.method", config.method, METHODS)
    given = config
    config = method.derive(config) if issubclass(method, Derives) else config
    config = settle_structure(config, method)
    if "density" in method.uses:
        _check_density(config, method.uses)
    config = method.complete(config) if issubclass(method, Completes) else config
    uses = method.acting(config) if issubclass(method, ActsByConfig) else method.uses
    _warn_of_unused(set(_given(given)), config, _acting(uses, config))
    if "update.removal" in uses:
        _check_removal(config)
    return config


def _acting(uses: frozenset[str], config: SparsityConfig) -> frozenset[str]:
    """The keys that act beside what a completed configuration chooses."""
    update = config.update
    if shares_out_nothing(config):
        uses -= {"distribution", "er_power", "table"}
    if update.growth != "gradient" and update.removal != "taylor":
        uses -= {"update.gradient_steps"}
    if update.removal == "threshold":
        return uses - {"update.drop_fraction", "update.drop_schedule", "update.drop_floor"}
    return uses - {"update.removal_threshold"}


def _check_removal(config: SparsityConfig) -> None:
    if config.update.removal == "threshold" and config.update.removal_threshold is None:
        raise UserError("sparsity.update.removal=threshold needs sparsity.update.removal_threshold, such as 0.001")


def _warn_of_unused(given: set[str], config: SparsityConfig, uses: frozenset[str]) -> None:
    """Warn of keys that are ``given`` and do nothing in the completed configuration."""
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


def _check_density(config: SparsityConfig, uses: frozenset[str]) -> None:
    if config.distribution == "table" and "table" not in uses:
        raise UserError(
            f"sparsity.distribution=table does not go with method {config.method}, which comes down to sparsity.density"
        )
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
        raise UserError(f"{key}={name!r} {is_unknown(name, known)}")
    return known[name]
