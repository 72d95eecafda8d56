"""Small folders of photographs in ImageNet's layout."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image


def write_photos(root: Path, *, train: int = 12, val: int = 4, side: int = 48) -> Path:
    """So many JPEG files a class and split in two classes: squares cut out of the two photographs in scikit-learn."""
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    for name, photo in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for split, count in (("train", train), ("val", val)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                top, left = draw.integers(0, 400, 2)
                Image.fromarray(photo[top : top + side, left : left + side]).save(folder / f"{number}.JPEG")
    return root


def imagenet_files() -> list[Path]:
    """The 20 real ImageNet JPEGs (512 x 512) in the foolbox wheel, which is found without the time that importing it takes."""
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    files = sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))
    assert len(files) == 20
    return files
