"""The worlds of 1, 2 and 4 ranks that the tests here share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.distributed.world import World


@pytest.fixture(scope="session")
def worlds() -> Iterator[Callable[[int], World]]:
    """``worlds(size)`` is the session's group of so many ranks."""
    known: dict[int, World] = {}
    yield lambda size: known.setdefault(size, World(size))
    for world in known.values():
        world.close()


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here run in one process of pytest-xdist, or each process would start worlds of its own."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("worlds"))
