"""Worker processes of image loaders, and the process that they are forked from."""

import gc
import os
from pathlib import Path
from types import ModuleType

import pytest

from dist_sparse.data.images import policy_workers, torchvision_backend
from dist_sparse.data.images.workers import begin_worker


class Garbage:
    """A cycle, which the garbage collector alone frees. It writes down the process in which it does."""

    def __init__(self, folder: Path) -> None:
        self._itself, self._folder = self, folder

    def __del__(self) -> None:
        (self._folder / str(os.getpid())).touch()


@pytest.mark.parametrize(("backend", "module"), [("torchvision", torchvision_backend), ("dali", policy_workers)])
def test_workers_free_nothing_of_the_process_that_starts_them(
    load, imagenet_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, module: ModuleType
) -> None:
    """A pipeline of DALI's among it would wait for its threads, which are not in a worker, for ever."""

    def begin(number: int) -> None:
        begin_worker(number)
        gc.collect()

    monkeypatch.setattr(module, "begin_worker", begin)
    keys = {"root": str(imagenet_photos), "backend": backend, "image_size": 16, "auto_augment": "trivial", "workers": 1}
    data = load("image_folder", **keys, batch_size=2)
    gc.disable()
    try:
        Garbage(tmp_path)
        assert len(list(data.train.epoch(0))) == 5
    finally:
        gc.enable()
        data.close()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]
