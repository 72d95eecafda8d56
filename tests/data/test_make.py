"""Small sets written as folders of images: the same pixels and labels, all or nothing, mistakes in one line."""

from pathlib import Path

import pytest
import torch

from dist_sparse.data import make
from dist_sparse.data.readers import DEBIAN_FASHION_MNIST
from tests.command import here
from tests.data.compare import same
from tests.full_disk import small_disk
from tests.on_disk import write_all

WHOLE = {"augment": False, "batch_size": 16, "workers": 0}


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("sets"))


def made(*argv: object) -> list[str]:
    outcome = here(make.main, [str(word) for word in argv])
    assert outcome.code == (2 if outcome.errors else 0)
    return outcome.errors


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
def test_fashion_mnist_is_itself(load, by_index, sets, tmp_path, backend):
    """Every image of the set comes with its label, in grey, from folders that are named by class."""
    assert made("fashion_mnist", tmp_path / "images", f"--data.root={sets / 'fashion_mnist'}") == []
    small = load("fashion_mnist", root=str(sets / "fashion_mnist"), mean=[0.5], std=[0.5], **WHOLE)
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 28, "resize": 28}
    files = load("image_folder", root=str(tmp_path / "images"), backend=backend, **half, **WHOLE)
    assert (files.info.classes, files.info.train_size, files.info.val_size) == (10, 60, 20)
    assert files.info.class_names[:2] == ("0-T_shirt_top", "1-Trouser")
    written = sorted(by_index(files.val).values(), key=lambda sample: (sample[1], sample[0].sum()))
    expected = sorted(by_index(small.val).values(), key=lambda sample: (sample[1], sample[0].sum()))
    for (image, label), (own, own_label) in zip(written, expected, strict=True):
        assert label == own_label
        assert torch.allclose(image, own.expand(3, -1, -1), atol=1e-6)


@pytest.mark.parametrize(("name", "classes", "first"), [("cifar10", 10, "0-class_0"), ("tiny_imagenet", 200, "000-")])
def test_sets_in_colour(load, sets, tmp_path, name, classes, first):
    from tests.on_disk import checksums_of

    with checksums_of(sets):
        assert made(name, tmp_path / "images", f"--data.root={sets / name}") == []
    names = sorted(path.name for path in (tmp_path / "images" / "train").iterdir())
    assert len(names) == classes
    assert names[0].startswith(first)
    assert names == sorted(path.name for path in (tmp_path / "images" / "val").iterdir())


def test_digits_need_no_file_and_a_run_can_pack_them(load, tmp_path):
    from dist_sparse.data import pack

    assert made("digits", tmp_path / "images") == []
    assert here(pack.main, [str(tmp_path / "images"), str(tmp_path / "shards"), "--format=webdataset"]).code == 0
    keys = {"image_size": 8, "batch_size": 64, "limit": 128, "workers": 0, "backend": "torchvision", "auto_augment": "trivial"}
    folder, shards = (load("image_folder", root=str(tmp_path / each), **keys) for each in ("images", "shards"))
    assert folder.info.class_names == tuple("0123456789")
    assert same(folder.train.epoch(0), shards.train.epoch(0))


def test_what_is_there_is_left_alone(sets, tmp_path):
    (tmp_path / "images").mkdir()
    assert made("digits", tmp_path / "images") == [f"{tmp_path}/images is there already; name a new folder, or remove it"]
    assert list((tmp_path / "images").iterdir()) == []


def test_mistakes_are_one_line_and_nothing_is_left(tmp_path):
    (line,) = made("noise", tmp_path / "images")
    assert line.startswith("argument name: invalid choice: 'noise'")
    (line,) = made("cifar10", tmp_path / "images", f"--data.root={tmp_path}")
    assert line.startswith(f"cifar10 is missing or damaged: expected {tmp_path}/cifar-10-batches-py/")
    if not DEBIAN_FASHION_MNIST.is_dir():
        (line,) = made("fashion_mnist", tmp_path / "images", f"--data.root={tmp_path}")
        assert line.startswith("fashion_mnist is missing or damaged")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path):
    with small_disk(tmp_path / "disk", 2**18) as disk:
        (line,) = made("digits", disk / "images")
        assert line == f"{disk}/images cannot be written: No space left on device"
        assert list(disk.iterdir()) == []
