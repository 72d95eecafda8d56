"""The device that these tests are about: a GPU, or, to try the tests themselves without one, the CPU that is asked for."""

import os

import pytest

DEVICE = "DIST_SPARSE_TEST_DEVICE"
"""The environment variable that names another device than cuda; tests/conftest.py knows it too."""


@pytest.fixture(scope="session")
def device() -> str:
    return os.environ.get(DEVICE, "cuda")
