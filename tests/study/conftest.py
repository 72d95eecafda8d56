"""Data of the tests of the study."""

from pathlib import Path

import numpy as np
import pytest

from tests.on_disk import write_idx


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 256 random images in Fashion-MNIST's form, and 100 to validate."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for prefix, count in (("train", 256), ("t10k", 100)):
        pixels = draw.integers(256, size=(count, 28, 28), dtype=np.uint8)
        write_idx(folder / "FashionMNIST", prefix, pixels, draw.integers(10, size=count, dtype=np.uint8))
    return folder
