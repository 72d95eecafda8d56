"""Every data set in its true form on disk, with a few real images each, out of foolbox's wheel."""

import contextlib
import gzip
import hashlib
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

SETS = ["fashion_mnist", "cifar10", "cifar100", "tiny_imagenet", "image_folder"]


def _files(prefix: str) -> list[tuple[Path, int]]:
    """The 20 images of a set in foolbox's wheel, and their labels, which end the names."""
    import foolbox

    folder = Path(foolbox.__file__).parent / "data"
    return [(path, int(path.stem.rpartition("_")[2])) for path in sorted(folder.glob(f"{prefix}_*"))]


def write_image_folder(root: Path, *, classes: int = 5) -> None:
    """ImageNet's synset folders, of its 20 JPEGs four to a class, one of them held out."""
    for number, (path, _) in enumerate(_files("imagenet")):
        split = "val" if number < classes else "train"
        folder = root / split / f"n{number % classes:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{path.stem}.JPEG")


def write_tiny_imagenet(root: Path) -> None:
    """200 synsets in the list; JPEGs of 64x64 in the first ten."""
    folder = root / "tiny-imagenet-200"
    wnids = [f"n{number:08d}" for number in range(200)]
    for wnid in wnids:
        (folder / "train" / wnid / "images").mkdir(parents=True)
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    lines = []
    for number, (path, _) in enumerate(3 * _files("imagenet")):
        image = Image.open(path).convert("RGB").resize((64, 64))
        wnid = wnids[number % 10]
        image.save(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG")
        if number < 8:
            image.save(folder / "val" / "images" / f"val_{number}.JPEG")
            lines.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def write_cifar(root: Path, classes: int) -> None:
    """The pickled batches, of 12 images each."""
    cls, files = _cifar(classes), _files(f"cifar{classes}")
    (root / cls.base_folder).mkdir(parents=True)
    labels_key = "labels" if classes == 10 else "fine_labels"
    for name, _ in cls.train_list + cls.test_list:
        chosen = (5 * files)[:12] if len(cls.train_list) > 1 else (5 * files)[:60]
        rows = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1).reshape(-1) for path, _ in chosen])
        content = {"data": rows, labels_key: [label for _, label in chosen]}
        (root / cls.base_folder / name).write_bytes(pickle.dumps(content))
    names = {cls.meta["key"]: [f"class {number}" for number in range(classes)]}
    (root / cls.base_folder / cls.meta["filename"]).write_bytes(pickle.dumps(names))


def write_mnist(root: Path, name: str) -> None:
    """idx files of MNIST or FashionMNIST, gzipped; 60 images and 20, which are Fashion-MNIST's in both."""
    files = _files("fashionMNIST")
    for prefix, chosen in (("train", 3 * files), ("t10k", files)):
        images = np.stack([np.asarray(Image.open(path).convert("L")) for path, _ in chosen])
        write_idx(root / name, prefix, images, np.array([label for _, label in chosen], dtype=np.uint8))


def write_idx(root: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    """A split in MNIST's form: its images [N, 28, 28] and labels [N] of bytes."""
    folder = root / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (("images-idx3", images), ("labels-idx1", labels)):
        sizes = np.array(values.shape, dtype=">i4").tobytes()
        header = bytes([0, 0, 8, values.ndim]) + sizes
        (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes()))


def write_all(root: Path) -> Path:
    """All of them below one folder, each in one of its own, named as ``data.name`` does."""
    write_image_folder(root / "image_folder")
    write_tiny_imagenet(root / "tiny_imagenet")
    write_cifar(root / "cifar10", 10)
    write_cifar(root / "cifar100", 100)
    write_mnist(root / "fashion_mnist", "FashionMNIST")
    write_mnist(root / "mnist", "MNIST")
    return root


@contextlib.contextmanager
def checksums_of(root: Path) -> Iterator[None]:
    """torchvision goes on checking CIFAR's sums: those of the files below :func:`write_all`'s ``root``."""
    with contextlib.ExitStack() as stack:
        for classes in (10, 100):
            cls = _cifar(classes)
            folder = root / f"cifar{classes}" / cls.base_folder
            sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
            for split in ("train_list", "test_list"):
                stack.enter_context(mock.patch.object(cls, split, [[name, sums[name]] for name, _ in getattr(cls, split)]))
            meta = {**cls.meta, "md5": sums[cls.meta["filename"]]}
            stack.enter_context(mock.patch.object(cls, "meta", meta))
        yield


def _cifar(classes: int):
    from torchvision.datasets import CIFAR10, CIFAR100

    return CIFAR10 if classes == 10 else CIFAR100
