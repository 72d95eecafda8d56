"""The worlds of 1, 2 and 4 ranks that the tests here share."""

from collections.abc import Callable, Iterator

import pytest

from tests.distributed.world import World


@pytest.fixture(scope="session")
def worlds() -> Iterator[Callable[[int], World]]:
    """``worlds(size)`` is the session's group of so many ranks."""
    known: dict[int, World] = {}
    yield lambda size: known.setdefault(size, World(size))
    for world in known.values():
        world.close()
