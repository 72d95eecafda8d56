"""Reading small sets from files in their true on-disk formats, and fetching them when asked to."""

import gzip
import hashlib
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from dist_sparse.config.data import DataConfig
from dist_sparse.data import readers, tiny_imagenet
from dist_sparse.data.small_set import read_small
from dist_sparse.errors import UserError

FASHION_FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def write_idx(path: Path, array: np.ndarray) -> None:
    data = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def no_debian(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")


@pytest.fixture
def write_fashion(tmp_path):
    """Write a small set in the idx format to a folder; returns its training images and labels."""

    def write(folder: Path, suffix: str) -> tuple[np.ndarray, np.ndarray]:
        folder.mkdir(parents=True)
        draw = np.random.default_rng(0)
        images, labels = draw.integers(0, 256, (20, 28, 28), np.uint8), draw.integers(0, 10, 20, np.uint8)
        for name, array in zip(FASHION_FILES, (images, labels, images[:7], labels[:7]), strict=True):
            write_idx(folder / f"{name}{suffix}", array)
        return images, labels

    return write


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_digits_are_scikit_learns(monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """Also where a version of it keeps them in another file."""
    from sklearn.datasets import load_digits

    if elsewhere:
        monkeypatch.setattr(readers, "find_spec", lambda _: None)
    for found, expected in zip(readers._load_digits(), load_digits(return_X_y=True), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("debian", [False, True])
def test_fashion_mnist_files_gzipped_or_not(load, write_fashion, monkeypatch, tmp_path, suffix, debian):
    debian_folder = tmp_path / "debian"
    monkeypatch.setattr(readers, "DEBIAN_FASHION_MNIST", debian_folder)
    images, labels = write_fashion(debian_folder if debian else tmp_path / "FashionMNIST" / "raw", suffix)
    data = load("fashion_mnist", root=str(tmp_path))
    assert (data.info.train_size, data.info.val_size, data.info.image_size) == (20, 7, 28)
    assert torch.equal(data.train.split.images, torch.from_numpy(images)[:, None])
    assert data.train.split.labels.tolist() == labels.tolist()


def test_mnist_is_read_from_a_folder_of_its_own(load, write_fashion, tmp_path):
    write_fashion(tmp_path / "FashionMNIST" / "raw", "")
    with pytest.raises(UserError, match=r"MNIST/raw/\{train,t10k\}-"):
        load("mnist", root=str(tmp_path))
    images, _ = write_fashion(tmp_path / "MNIST" / "raw", ".gz")
    data = load("mnist", root=str(tmp_path))
    assert torch.equal(data.train.split.images, torch.from_numpy(images)[:, None])
    assert data.info.name == "mnist"


@pytest.mark.skipif(
    not readers.DEBIAN_FASHION_MNIST.is_dir(), reason="needs the real files: apt-get install dataset-fashion-mnist"
)
def test_debians_fashion_mnist_is_found_by_itself(load, tmp_path):
    data = load("fashion_mnist", root=str(tmp_path / "no such folder"))
    assert (data.info.train_size, data.info.val_size) == (60000, 10000)
    train, small_set = data.train.split, readers.SMALL_SETS["fashion_mnist"]
    assert train.labels.bincount().tolist() == [6000] * 10
    pixels = train.images.float() / 255
    assert pixels.mean().item() == pytest.approx(small_set.mean[0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(small_set.std[0], abs=1e-4)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: b"\x1f\x8b" + data, lambda data: b"", lambda data: data[:9]]
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_idx_file_is_named(load, write_fashion, no_debian, tmp_path, damage, suffix):
    folder = tmp_path / "FashionMNIST" / "raw"
    write_fashion(folder, suffix)
    path = folder / f"train-images-idx3-ubyte{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\S* is damaged \(.*\); delete it"):
        load("fashion_mnist", root=str(tmp_path))


@pytest.mark.parametrize("start", [10, 100])  # the compressor's first block header, and data that only the checksum guards
def test_a_gzip_file_damaged_inside_is_named(load, write_fashion, no_debian, tmp_path, start):
    folder = tmp_path / "FashionMNIST" / "raw"
    write_fashion(folder, ".gz")
    path = folder / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz is damaged"):
        load("fashion_mnist", root=str(tmp_path))


def pickled(path: Path, content: dict) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def write_cifar(monkeypatch):
    """Write CIFAR's pickled batches with few images. torchvision goes on checking sums: those of the files made here."""

    def write(cls: type[CIFAR10], root: Path, per_file: int = 6) -> dict[str, tuple[np.ndarray, list[int]]]:
        folder, draw = root / cls.base_folder, np.random.default_rng(0)
        folder.mkdir(parents=True)
        labels_key, classes = ("fine_labels", 100) if cls is CIFAR100 else ("labels", 10)
        content, sums = {}, {}
        for name, _ in cls.train_list + cls.test_list:
            rows, labels = draw.integers(0, 256, (per_file, 3072), np.uint8), draw.integers(0, classes, per_file).tolist()
            content[name] = (rows, labels)
            sums[name] = pickled(folder / name, {"data": rows, labels_key: labels, "filenames": ["x.png"] * per_file})
        meta = pickled(folder / cls.meta["filename"], {cls.meta["key"]: [f"class {number}" for number in range(classes)]})
        for split in ("train_list", "test_list"):
            monkeypatch.setattr(cls, split, [[name, sums[name]] for name, _ in getattr(cls, split)])
        monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": meta})
        return content

    return write


@pytest.mark.parametrize(("name", "cls"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_cifars_pickled_batches(load, write_cifar, tmp_path, name, cls):
    content = write_cifar(cls, tmp_path)
    data = load(name, root=str(tmp_path), batch_size=2)
    files = [file for file, _ in cls.train_list]
    assert (data.info.train_size, data.info.val_size) == (6 * len(files), 6)
    assert (data.info.classes, data.info.channels, data.info.image_size) == (int(name[5:]), 3, 32)
    rows = np.concatenate([content[file][0] for file in files])
    assert torch.equal(data.train.split.images, torch.from_numpy(rows).view(-1, 3, 32, 32))
    assert data.train.split.labels.tolist() == [label for file in files for label in content[file][1]]


def test_a_cifar_file_with_a_wrong_checksum_is_refused(load, write_cifar, tmp_path):
    write_cifar(CIFAR10, tmp_path)
    with (tmp_path / "cifar-10-batches-py" / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="cifar10 is missing or damaged"):
        load("cifar10", root=str(tmp_path))


@pytest.fixture
def serve() -> Iterator[Callable[[Path], str]]:
    """``serve(file)`` gives the address of a file on an HTTP server of our own, which stands in for the data set's."""
    with ExitStack() as stack:

        def start(file: Path) -> str:
            handler = partial(SimpleHTTPRequestHandler, directory=str(file.parent))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            Thread(target=server.serve_forever, args=(0.01,)).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/{file.name}"

        yield start


@pytest.fixture
def cifar_archive(write_cifar, serve, monkeypatch, tmp_path) -> Path:
    folder = tmp_path / "server"
    write_cifar(CIFAR10, folder)
    archive = folder / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "url", serve(archive))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def test_download_fetches_once_for_several_ranks(cifar_archive, tmp_path):
    config = DataConfig(name="cifar10", root=str(tmp_path / "new" / "data"), download=True)
    original, calls = readers.SMALL_SETS["cifar10"], []
    assert original.download is not None
    counted = replace(original, download=lambda root: (calls.append(root), original.download(root)))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: read_small(config, counted), range(4)))
    assert all(len(train.labels) == 30 and len(val.labels) == 6 for train, val in results)
    assert len(calls) == 1


def test_a_failed_download_says_where_files_would_lie(load, cifar_archive, tmp_path):
    cifar_archive.unlink()
    with pytest.raises(UserError) as error:
        load("cifar10", root=str(tmp_path / "new"), download=True)
    assert str(error.value).startswith("cifar10 could not be fetched (")
    assert f"{tmp_path}/new/cifar-10-batches-py/{{data_batch_1,data_batch_2," in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("fashion_mnist", "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]"),
        ("cifar10", "cifar-10-batches-py/{data_batch_1,"),
        ("cifar100", "cifar-100-python/{train,test,meta}"),
        ("tiny_imagenet", "tiny-imagenet-200/{wnids.txt,"),
    ],
)
def test_a_missing_set_says_where_files_must_lie(load, no_debian, tmp_path, name, layout):
    with pytest.raises(UserError) as error:
        load(name, root=str(tmp_path))
    assert f"{name} is missing or damaged: expected {tmp_path}/{layout}" in str(error.value)
    assert "; --data.download=true fetches it" in str(error.value)
    assert ("Debian's package dataset-fashion-mnist" in str(error.value)) == (name == "fashion_mnist")


@pytest.fixture
def tiny(write_jpegs, tmp_path) -> Path:
    """Tiny-ImageNet's layout with three classes, out of order in wnids.txt as in the real one."""
    folder, wnids = tmp_path / tiny_imagenet.FOLDER, ["n03", "n01", "n02"]
    for number, wnid in enumerate(sorted(wnids)):
        write_jpegs(folder / "train" / wnid / "images", 4, side=64, seed=number)
    write_jpegs(folder / "val" / "images", 3, side=64, seed=9)
    (folder / "wnids.txt").write_text("\n".join(wnids))
    lines = [f"images_{number}.JPEG\t{wnid}\t0\t32\t44\t62" for number, wnid in enumerate(wnids)]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_tiny_imagenet_reads_its_annotations_and_keeps_a_tensor(load, tiny, tmp_path, caplog):
    data = load("tiny_imagenet", root=str(tmp_path))
    assert (data.info.train_size, data.info.val_size, data.info.image_size) == (12, 3, 64)
    assert data.train.split.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.val.split.labels.tolist() == [2, 0, 1]
    for image in tiny.glob("train/*/images/*.JPEG"):
        image.write_bytes(b"no longer needed")
    again = load("tiny_imagenet", root=str(tmp_path))
    assert torch.equal(again.train.split.images, data.train.split.images)
    assert not list(tiny.glob("*.tmp"))


def test_tiny_imagenet_decodes_again_when_its_tensor_is_damaged_or_old(load, tiny, tmp_path, caplog):
    images = load("tiny_imagenet", root=str(tmp_path)).train.split.images
    (tiny / "train.pt").write_bytes((tiny / "train.pt").read_bytes()[:100])
    assert torch.equal(load("tiny_imagenet", root=str(tmp_path)).train.split.images, images)
    assert "train.pt is damaged" in caplog.text
    (tiny / "train" / "n01" / "images" / "images_0.JPEG").unlink()
    assert load("tiny_imagenet", root=str(tmp_path)).info.train_size == 11


def test_tiny_imagenet_names_a_corrupt_file(load, tiny, tmp_path):
    (tiny / "val" / "images" / "images_1.JPEG").write_bytes(b"\xff\xd8 not a photograph")
    with pytest.raises(UserError, match=r"images_1.JPEG cannot be decoded \(.*\); unpack "):
        load("tiny_imagenet", root=str(tmp_path))


def test_tiny_imagenet_is_fetched_and_unpacked_as_a_whole(load, tiny, serve, monkeypatch, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, tiny.name))
    monkeypatch.setattr(tiny_imagenet, "URL", serve(archive))
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    root = tmp_path / "new"
    assert load("tiny_imagenet", root=str(root), download=True).info.train_size == 12
    assert not list(root.glob(".unpacking-*"))
    (root / tiny.name / "wnids.txt").unlink()
    with pytest.raises(UserError, match="is there, but not complete; remove it first"):
        load("tiny_imagenet", root=str(root), download=True)
