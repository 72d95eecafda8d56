"""Filling in what the user has left out."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from dist_sparse.config.sparsity import SparsityConfig


@runtime_checkable
class Completes(Protocol):
    """A method with defaults of its own."""

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        """The configuration with the method's defaults filled in."""
        ...


@runtime_checkable
class ActsByConfig(Protocol):
    """A method that does not use all of its keys in every configuration."""

    @classmethod
    def acting(cls, config: SparsityConfig) -> frozenset[str]:
        """Which of the method's ``uses`` act."""
        ...


@runtime_checkable
class Derives(Protocol):
    """A method whose own section gives the density or the structure."""

    @classmethod
    def derive(cls, config: SparsityConfig) -> SparsityConfig:
        """The configuration with what the method's section gives.

        Raises:
            UserError: it contradicts what is given beside it.
        """
        ...


def fill(config: SparsityConfig, *, update: Mapping[str, Any], ramp: Mapping[str, Any] | None = None) -> SparsityConfig:
    """The configuration with these values for the keys of ``sparsity.update`` and ``sparsity.ramp`` that are None."""
    return dataclasses.replace(config, update=_fill(config.update, update), ramp=_fill(config.ramp, ramp or {}))


def _fill(section: Any, defaults: Mapping[str, Any]) -> Any:
    return dataclasses.replace(section, **{key: value for key, value in defaults.items() if getattr(section, key) is None})
