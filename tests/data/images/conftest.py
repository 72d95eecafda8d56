"""Real ImageNet photographs as a data set."""

from pathlib import Path

import pytest

from tests.photos import imagenet_files


@pytest.fixture(scope="session")
def imagenet_photos(tmp_path_factory) -> Path:
    """The 20 ImageNet photographs in the foolbox wheel (512 x 512): 5 a class and split, in classes `even` and `odd`."""
    root = tmp_path_factory.mktemp("imagenet")
    for number, file in enumerate(imagenet_files()):
        folder = root / ("train", "val")[number // 2 % 2] / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).symlink_to(file)
    return root
