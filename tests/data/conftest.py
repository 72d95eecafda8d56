"""Short ways to build a data set and to look at its batches."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dist_sparse.config.data import DataConfig
from dist_sparse.data import Batch, Data, Loading, build_data

LOADING = {
    "batch_size": 8,
    "accumulation": 1,
    "eval_batch_size": 7,
    "rank": 0,
    "world_size": 1,
    "seed": 3,
    "epochs": 1,
    "channels_last": False,
}


@pytest.fixture
def load() -> Callable[..., Data]:
    """``load(name, **keys)``: keys of the loading (batch_size, rank ...) or of DataConfig."""

    def build(name: str, **keys) -> Data:
        loading = {key: keys.pop(key, default) for key, default in LOADING.items()}
        return build_data(DataConfig(name=name, **keys), Loading(device=torch.device("cpu"), **loading))

    return build


@pytest.fixture
def by_index() -> Callable[[Iterable[Batch]], dict[int, tuple[Tensor, int]]]:
    """Position -> image and label; fails where a position comes twice."""

    def collect(batches: Iterable[Batch]) -> dict[int, tuple[Tensor, int]]:
        found: dict[int, tuple[Tensor, int]] = {}
        for batch in batches:
            for image, label, index in zip(*batch, strict=True):
                assert int(index) not in found
                found[int(index)] = (image, int(label))
        return found

    return collect


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """The two real photographs in scikit-learn, uint8 [427, 640, 3]."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


@pytest.fixture
def write_jpegs(photos) -> Callable[..., None]:
    """``write_jpegs(folder, count, side, seed)`` cuts ``count`` different squares out of the photographs."""

    def write(folder: Path, count: int, side: int = 48, seed: int = 0) -> None:
        folder.mkdir(parents=True)
        draw = np.random.default_rng(seed)
        for number in range(count):
            photo = photos[number % len(photos)]
            top, left = draw.integers(0, photo.shape[0] - side), draw.integers(0, photo.shape[1] - side)
            square = Image.fromarray(photo[top : top + side, left : left + side])
            square.save(folder / f"{folder.name}_{number}.JPEG", quality=95)

    return write
