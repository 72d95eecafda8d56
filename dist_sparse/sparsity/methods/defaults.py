"""Filling in what the user has left out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dist_sparse.config.sparsity import SparsityConfig


def fill(config: SparsityConfig, *, update: Mapping[str, Any], ramp: Mapping[str, Any] | None = None) -> SparsityConfig:
    """The configuration with these values for the keys of ``sparsity.update`` and ``sparsity.ramp`` that are None."""
    return dataclasses.replace(config, update=_fill(config.update, update), ramp=_fill(config.ramp, ramp or {}))


def _fill(section: Any, defaults: Mapping[str, Any]) -> Any:
    return dataclasses.replace(section, **{key: value for key, value in defaults.items() if getattr(section, key) is None})
