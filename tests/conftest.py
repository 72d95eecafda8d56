"""Set-up that every test shares: one thread a process, W&B without the network, GPU tests only where there is a GPU.

Tests come in random order (pytest-randomly): what one would leave to the next is an error of its own.
"""

import os
from collections.abc import Generator, Iterator

import pytest

from dist_sparse.leaving import importing
from tests.state import State, same_draws

# Before anything imports torch or wandb; child processes inherit both. Threads would fight over the cores that xdist shares.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"


@pytest.fixture(autouse=True)
def leaves_no_trace() -> Iterator[None]:
    """A test that leaves the process changed fails, and what it has changed is set back for those after it."""
    state = State()
    same_draws()
    yield
    changed = state.restore()
    assert not changed, f"the test has left changed: {', '.join(changed)}"


def pytest_configure(config: pytest.Config) -> None:
    if (randomly := config.pluginmanager.get_plugin("randomly")) is not None:
        # DeepSpeed asks to be imported by it, for a seed in all of its generators: seconds for every pytest, and other draws.
        randomly.entrypoint_reseeds = []


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Every process of pytest-xdist imports all tests, and with them nearly all packages there are."""
    with importing():
        return (yield)


@pytest.hookimpl(trylast=True)  # after the order has been drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)
    marked = [item for item in items if item.get_closest_marker("gpu") and not _is_tried_without(item)]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _is_tried_without(item: pytest.Item) -> bool:
    """Tests in tests/gpu take any device: launchers/gpu_check.sh --device=cpu tries them, and itself, without a GPU."""
    return item.path.parent.name == "gpu" and os.environ.get("DIST_SPARSE_TEST_DEVICE") == "cpu"
