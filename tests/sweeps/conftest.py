"""A server for each test, and a folder with the shipped configurations."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import ROOT
from tests.sweeps.stand_in_server import StandInServer, stand_in_server


@pytest.fixture
def server() -> Iterator[StandInServer]:
    with stand_in_server() as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path
