"""The small data sets: where their files lie, how they are read, and how their images are augmented by default."""

import gzip
import math
import os
import zlib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dist_sparse.data.small_set import MissingFilesError, SmallSet, Split
from dist_sparse.data.tiny_imagenet import fetch_tiny_imagenet, read_tiny_imagenet, tiny_imagenet_names
from dist_sparse.errors import UserError
from dist_sparse.seeding import generator

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the gzipped files."""


_NOISE = (8_192, 512)
"""Training and validation images of the set `noise`."""


def _read_digits(_root: Path) -> tuple[Split, Split]:
    """1,797 real digits of 8x8 pixels inside scikit-learn. Sorted by class, every fifth is held out: 1,437 and 360."""
    pixels, labels = _load_digits()
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(labels).long()
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    held_out[targets.argsort(stable=True)[::5]] = True
    return Split(images[~held_out], targets[~held_out]), Split(images[held_out], targets[held_out])


def _load_digits() -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's ``load_digits`` reads, from the same file: importing scikit-learn would take ten times as long."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",", dtype=np.int64)  # five times as fast as floats
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return digits.data, digits.target


def _read_noise(_root: Path) -> tuple[Split, Split]:
    """Random pixels and labels, always the same ones."""
    draws = generator("noise")

    def split(size: int) -> Split:
        images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=draws)
        return Split(images, torch.randint(0, 1_000, (size,), generator=draws))

    return split(_NOISE[0]), split(_NOISE[1])


def _read_mnist(root: Path, name: str) -> tuple[Split, Split]:
    """MNIST or Fashion-MNIST, from the folder that torchvision gives its files."""
    folders = (root / name / "raw", *((DEBIAN_FASHION_MNIST,) if name == "FashionMNIST" else ()))

    def split(prefix: str) -> Split:
        images = read_idx(_find(f"{prefix}-images-idx3-ubyte", folders))
        labels = read_idx(_find(f"{prefix}-labels-idx1-ubyte", folders))
        return Split(images.unsqueeze(1), labels.long())

    return split("train"), split("t10k")


def _find(name: str, folders: tuple[Path, ...]) -> Path:
    """The file, gzipped or not, in the first folder that has it."""
    candidates = [folder / f"{name}{suffix}" for folder in folders for suffix in ("", ".gz")]
    for path in candidates:
        if os.path.isfile(path):  # noqa: PTH113 -- Path.is_file raises for a name that no file can have
            return path
    raise MissingFilesError(name)


def read_idx(path: Path) -> Tensor:
    """A uint8 tensor from MNIST's idx format (big-endian sizes, then the bytes), gzipped or not.

    Raises UserError where the file is not of that format or is cut short.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("not an idx file of bytes")
        start = 4 + 4 * data[3]
        shape = np.frombuffer(data[4:start], dtype=">i4").tolist()
        if len(data) - start != math.prod(shape):
            raise ValueError(f"{len(data) - start} bytes where shape {shape} needs {math.prod(shape)}")
        return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and fetch the data set again") from error


def _fashion_names(_root: Path) -> list[str]:
    from torchvision.datasets import FashionMNIST

    return FashionMNIST.classes


def _fetch_mnist(root: Path, name: str) -> None:
    from torchvision import datasets

    getattr(datasets, name)(root, download=True)


def _read_cifar(root: Path, classes: int) -> tuple[Split, Split]:
    def split(train: bool) -> Split:
        try:
            data = _cifar(classes)(root, train=train)
        except RuntimeError as error:  # torchvision's word for a missing file or a wrong checksum
            raise MissingFilesError(str(error)) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor(data.targets))

    return split(True), split(False)


def _cifar_names(root: Path, classes: int) -> list[str]:
    return _cifar(classes)(root, train=False).classes


def _fetch_cifar(root: Path, classes: int) -> None:
    _cifar(classes)(root, download=True)


def _cifar(classes: int):
    from torchvision import datasets

    return {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]


SMALL_SETS = {
    "digits": SmallSet(
        classes=10,
        mean=(0.3058,),
        std=(0.3761,),
        crop_padding=1,
        flip=False,
        side=8,
        train_size=1_437,
        val_size=360,
        read=_read_digits,
        class_names=lambda _root: "0123456789",
    ),
    "mnist": SmallSet(
        classes=10,
        mean=(0.1307,),
        std=(0.3081,),
        crop_padding=2,
        flip=False,
        side=28,
        train_size=60_000,
        val_size=10_000,
        read=partial(_read_mnist, name="MNIST"),
        class_names=lambda _root: "0123456789",
        layout="MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
        download=partial(_fetch_mnist, name="MNIST"),
    ),
    "fashion_mnist": SmallSet(
        classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        crop_padding=2,
        flip=True,
        side=28,
        train_size=60_000,
        val_size=10_000,
        read=partial(_read_mnist, name="FashionMNIST"),
        class_names=_fashion_names,
        layout="FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]",
        download=partial(_fetch_mnist, name="FashionMNIST"),
        hint=", and Debian's package dataset-fashion-mnist is found by itself",
    ),
    "cifar10": SmallSet(
        classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        crop_padding=4,
        flip=True,
        side=32,
        train_size=50_000,
        val_size=10_000,
        read=partial(_read_cifar, classes=10),
        class_names=partial(_cifar_names, classes=10),
        layout="cifar-10-batches-py/{data_batch_1,data_batch_2,data_batch_3,data_batch_4,data_batch_5,test_batch,batches.meta}",
        download=partial(_fetch_cifar, classes=10),
    ),
    "cifar100": SmallSet(
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        crop_padding=4,
        flip=True,
        side=32,
        train_size=50_000,
        val_size=10_000,
        read=partial(_read_cifar, classes=100),
        class_names=partial(_cifar_names, classes=100),
        layout="cifar-100-python/{train,test,meta}",
        download=partial(_fetch_cifar, classes=100),
    ),
    "tiny_imagenet": SmallSet(
        classes=200,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        crop_padding=8,
        flip=True,
        side=64,
        train_size=100_000,
        val_size=10_000,
        read=read_tiny_imagenet,
        class_names=tiny_imagenet_names,
        layout="tiny-imagenet-200/{wnids.txt,train/<wnid>/images/*.JPEG,val/images/*.JPEG,val/val_annotations.txt}",
        download=fetch_tiny_imagenet,
    ),
    "noise": SmallSet(
        classes=1_000,
        mean=(0.5, 0.5, 0.5),
        std=(0.29, 0.29, 0.29),
        crop_padding=4,
        flip=True,
        side=32,
        train_size=_NOISE[0],
        val_size=_NOISE[1],
        read=_read_noise,
    ),
}
"""Every small set by its ``data.name``."""
