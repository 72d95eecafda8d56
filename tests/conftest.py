"""Set-up that every test shares: one thread a process, W&B without the network, GPU tests only where there is a GPU."""

import os

import pytest

# Before anything imports torch or wandb; child processes inherit both. Threads would fight over the cores that xdist shares.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
