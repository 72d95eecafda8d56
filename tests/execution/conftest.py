"""Kernels are compiled where there is a C++ compiler; without one these tests are skipped, but not in CI."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dist_sparse.execution import available, build, survey
from dist_sparse.execution.compiling import NoKernels
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.layers import Layer


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


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Costs by which sparse layers are ten times as fast, on a machine that has measured nothing yet; what was measured."""
    kernels()  # compiled into the usual cache
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(available, "compiling", lambda: iter(()))
    monkeypatch.setattr(build, "_SMALL", 0)
    found: list[str] = []

    def cost(seconds: float, layer: Layer) -> float:
        found.append(layer.key)
        return seconds

    networks = iter([30.0, 3.0])
    monkeypatch.setattr(survey, "dense_cost", lambda layer, **_: cost(1.0, layer))
    monkeypatch.setattr(survey, "sparse_cost", lambda _, layer, *__, **___: cost(0.1, layer))
    monkeypatch.setattr(survey, "network_seconds", lambda *_: next(networks))
    return found
