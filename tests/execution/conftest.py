"""Kernels are compiled where there is a C++ compiler; without one these tests are skipped, but not in CI."""

import os
from collections.abc import Iterator

import pytest
import torch

from dist_sparse.execution.compiling import NoKernels
from dist_sparse.execution.kernels import kernels


@pytest.fixture(autouse=True, scope="session")
def compiled_kernels() -> None:
    try:
        kernels()
    except NoKernels as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
