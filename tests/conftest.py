"""Set-up that every test shares: one thread a process, W&B without the network, GPU tests only where there is a GPU.

Tests come in random order (pytest-randomly): what one would leave to the next is an error of its own.
"""

import atexit
import contextlib
import gc
import itertools
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
    with contextlib.suppress(ImportError):
        from hypothesis import HealthCheck, settings

        # A busy machine is no failure, and a test's examples may share a folder.
        settings.register_profile(
            "ours", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
        )
        settings.load_profile("ours")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Every process of pytest-xdist imports all tests, and with them nearly all packages there are, which are never garbage."""
    with importing():
        found = yield
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries complain of what is left at the end
    return found


@pytest.hookimpl(trylast=True)  # after the order has been drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = _balanced(items)
    marked = [item for item in items if item.get_closest_marker("gpu") and not _is_tried_without(item)]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _balanced(items: list[pytest.Item]) -> list[pytest.Item]:
    """The same tests by file, so that both cores always have something to do.

    The files that wait come first, the longest first of all, each with its share behind it of those that take long because they
    compute, so that while one worker waits two compute. What is short comes last, and lets all workers end together.
    """
    files = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.path)]
    waiting = [file for file in files if file[0].get_closest_marker("waits")]
    waiting.sort(key=lambda file: file[0].path.parent.name != "slurm")
    others = [file for file in files if not file[0].get_closest_marker("waits")]
    long = [file for file in others if file[0].path.parent.name == "distributed" or any(map(_is_slow, file))]
    short = [file for file in others if file not in long]
    ordered = []
    for number, file in enumerate(waiting):
        ordered += [file, *long[number :: len(waiting)]]
    return list(itertools.chain.from_iterable([*(ordered or long), *short]))


def _is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


def _is_tried_without(item: pytest.Item) -> bool:
    """Tests in tests/gpu take any device: launchers/gpu_check.sh --device=cpu tries them, and itself, without a GPU."""
    return item.path.parent.name == "gpu" and os.environ.get("DIST_SPARSE_TEST_DEVICE") == "cpu"
