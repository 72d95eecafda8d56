"""Shards of both formats: the same run as from folders, readable by others' tools, and damage told in one line."""

import io
import json
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, tfrecord

from dist_sparse.data import pack
from dist_sparse.data.images.shards import tfrecord as ours
from dist_sparse.data.images.shards.files import CLASSES
from dist_sparse.data.images.shards.index import INDEX
from tests.data.compare import message_of, same

SMALL = {"image_size": 32, "resize": 40, "workers": 1, "batch_size": 4, "eval_batch_size": 4}
FORMATS = ["webdataset", "tfrecord"]


@pytest.fixture(scope="session")
def packed(imagenet_photos, tmp_path_factory) -> dict[str, Path]:
    """The photographs packed in either format, four a shard. Only to be read."""
    folder = tmp_path_factory.mktemp("packed")
    for name in FORMATS:
        assert pack.main([str(imagenet_photos), str(folder / name), f"--format={name}", "--shard-size=4"]) == 0
    return {name: folder / name for name in FORMATS}


@pytest.fixture
def own(packed, tmp_path):
    """A copy of the shards of a format for a test to spoil, without their index."""

    def copy(name: str) -> Path:
        for file in packed[name].glob("*/*"):
            if file.name != INDEX:
                target = tmp_path / file.relative_to(packed[name])
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(file.read_bytes())
        return tmp_path

    return copy


def shards(root: Path, split: str = "train") -> list[Path]:
    return sorted(path for path in (root / split).iterdir() if path.name not in (INDEX, CLASSES))


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_run_on_shards_equals_one_on_folders(load, imagenet_photos, packed, backend, name):
    folder, sharded = (
        load("image_folder", root=str(root), backend=backend, **SMALL) for root in (imagenet_photos, packed[name])
    )
    assert folder.info == sharded.info
    assert same(folder.train.epoch(1), sharded.train.epoch(1))
    assert same(folder.train.epoch(1, 1, torch.arange(9)), sharded.train.epoch(1, 1, torch.arange(9)))
    assert same(folder.val, sharded.val)


@pytest.mark.parametrize("name", FORMATS)
def test_without_an_index_it_is_made_again(load, own, caplog, name):
    root = own(name)
    first = load("image_folder", root=str(root), backend="dali", **SMALL)
    index = (root / "train" / INDEX).read_bytes()
    with caplog.at_level(logging.INFO):
        assert same(first.val, load("image_folder", root=str(root), backend="dali", **SMALL).val)
    assert "for their index" not in caplog.text
    (root / "train" / INDEX).write_bytes(index[:100])
    load("image_folder", root=str(root), **SMALL)
    assert f"{root}/train/{INDEX} is damaged; the shards are read anew" in caplog.text


def test_dali_reads_the_tars_itself(imagenet_photos, packed):
    @pipeline_def(batch_size=10, num_threads=1, device_id=None)
    def read():
        paths = [str(path) for path in shards(packed["webdataset"])]
        return tuple(fn.readers.webdataset(paths=paths, ext=["jpg", "cls"], missing_component_behavior="error"))

    images, labels = read().run()
    assert_packed(imagenet_photos, [(bytes(images.at(n)), int(bytes(labels.at(n)))) for n in range(10)])


def test_dali_reads_the_tfrecords_itself(imagenet_photos, packed, tmp_path):
    paths = shards(packed["tfrecord"])
    indices = [write_dalis_index(path, tmp_path / path.name) for path in paths]

    @pipeline_def(batch_size=10, num_threads=1, device_id=None)
    def read():
        features = {
            "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
            "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
        }
        inputs = fn.readers.tfrecord(path=[str(path) for path in paths], index_path=indices, features=features)
        return inputs["image/encoded"], inputs["image/class/label"]

    images, labels = read().run()
    assert_packed(imagenet_photos, [(bytes(images.at(n)), int(labels.at(n)[0])) for n in range(10)])


def test_the_checksum_is_tensorflows():
    """Every event file of TensorBoard begins with a record of 24 bytes, and so with these twelve."""
    head = b'\x18\0\0\0\0\0\0\0\xa3\x7fK"'
    assert ours._checksum(head[:8]) == head[8:]


def write_dalis_index(shard: Path, index: Path) -> str:
    """Lines of a record's offset and size, as DALI's tfrecord2idx writes them."""
    data, lines, place = shard.read_bytes(), [], 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little") + 16
        lines.append(f"{place} {size}\n")
        place += size
    index.write_text("".join(lines))
    return str(index)


def assert_packed(root: Path, found: list[tuple[bytes, int]]) -> None:
    """All training images with their labels, in another order than the folder's."""
    expected = [(path.read_bytes(), int(path.parent.name == "odd")) for path in sorted(root.glob("train/*/*"))]
    assert sorted(found) == sorted(expected)
    assert found != expected


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("left", [0.1, 0.6, 0.9])
def test_a_truncated_shard_is_named(load, own, caplog, name, left):
    root = own(name)
    shard = shards(root)[1]
    shard.write_bytes(shard.read_bytes()[: int(left * shard.stat().st_size)])
    message = message_of(lambda: load("image_folder", root=str(root), **SMALL))
    assert message.startswith(f"{shard} is damaged after ")
    assert message.endswith("; pack or copy it again, or set data.bad_images=skip")
    data = load("image_folder", root=str(root), bad_images="skip", **SMALL)
    assert [record.getMessage().startswith(f"{shard} is damaged after ") for record in caplog.records] == [True]
    assert 6 <= data.info.train_size < 10
    assert all(torch.isfinite(batch.images).all() for batch in data.train.epoch(0))
    assert not (root / "train" / INDEX).exists()


@pytest.mark.parametrize("name", FORMATS)
def test_a_shard_that_is_cut_after_its_index_was_made_is_found(load, own, name):
    root = own(name)
    load("image_folder", root=str(root), **SMALL)
    shard = shards(root, "val")[0]
    shard.write_bytes(shard.read_bytes()[:-20_000])
    assert message_of(lambda: load("image_folder", root=str(root), **SMALL)).startswith(f"{shard} is damaged after ")


def relabel(shard: Path) -> None:
    """Write a tar anew with other labels of one digit as well, so that it has the size that it had, at another time."""
    time = shard.stat().st_mtime_ns
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # pyright: ignore[reportOptionalMemberAccess]
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(b"%d" % (1 - int(data)) if member.name.endswith(".cls") else data))
    os.utime(shard, ns=(time + 1, time + 1))


def test_shards_rewritten_with_the_same_size_are_read_anew(load, own):
    root = own("webdataset")
    before = load("image_folder", root=str(root), **SMALL).info.train_samples
    for shard in shards(root):
        size = shard.stat().st_size
        relabel(shard)
        assert shard.stat().st_size == size
    after = load("image_folder", root=str(root), **SMALL).info.train_samples
    assert after.digests == before.digests[::-1]


def test_an_index_that_knows_no_times_is_made_anew(load, own, caplog):
    """Those of an earlier version do not."""
    root = own("webdataset")
    load("image_folder", root=str(root), **SMALL)
    path = root / "train" / INDEX
    with np.load(path) as stored:
        old = {key: value for key, value in stored.items() if key != "times"}
    np.savez(path, **old)
    with caplog.at_level(logging.INFO):
        load("image_folder", root=str(root), **SMALL)
    assert "for their index" in caplog.text
    assert "damaged" not in caplog.text
    with np.load(path) as stored:
        assert len(stored["times"]) == len(shards(root))


def test_a_flipped_bit_in_a_record_is_found(load, own):
    root = own("tfrecord")
    shard = shards(root)[0]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    message = message_of(lambda: load("image_folder", root=str(root), **SMALL))
    assert message.startswith(f"{shard} is damaged after 0 images (record 0 has a wrong checksum); ")


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_corrupt_image_in_a_shard_is_named(load, imagenet_photos, tmp_path, backend, name):
    root = tmp_path / "shards"
    bad = write_shards(imagenet_photos, root, name)
    data = load("image_folder", root=str(root), backend=backend, **{**SMALL, "batch_size": 10})
    message = message_of(lambda: list(data.train.epoch(0)))
    assert message.startswith(f"{root}/train/{bad} cannot be decoded (")
    skipping = load("image_folder", root=str(root), backend=backend, bad_images="skip", **{**SMALL, "batch_size": 10})
    (batch,) = skipping.train.epoch(0)
    assert batch.indices.bincount().tolist() == [0, 2, 1, 1, 1, 1, 1, 1, 1, 1]


def write_shards(photos: Path, root: Path, name: str) -> str:
    """One shard a split, whose first training image is half there; returns what it is called."""
    from dist_sparse.data.images.shards.formats import FORMATS as KINDS

    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        files = sorted(photos.glob(f"{split}/*/*"))
        images = [file.read_bytes() for file in files]
        images[0] = images[0][: 20_000 if split == "train" else None]
        labels = [7 + (file.parent.name == "odd") for file in files]
        samples = [(f"{number}.jpg", *sample) for number, sample in enumerate(zip(images, labels, strict=True))]
        file_name = KINDS[name].file_name.format(split=split, number=0, count=1)
        with (root / split / file_name).open("wb") as shard:
            KINDS[name].write(samples, shard)
    return KINDS[name].file_name.format(split="train", number=0, count=1) + ": 0.jpg"


def test_classes_count_from_0_in_the_order_of_the_shards_numbers(load, by_index, imagenet_photos, tmp_path):
    write_shards(imagenet_photos, tmp_path / "shards", "tfrecord")
    data = load("image_folder", root=str(tmp_path / "shards"), **SMALL)
    assert data.info.classes == 2
    labels = {index: label for index, (_, label) in by_index(data.val).items()}
    assert labels == {position: int(position >= 5) for position in range(10)}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"0.jpg": b"x"}, "sample 0 has no .cls"),
        ({"a/0.cls": b"1"}, "sample a/0 has no image (jpg, jpeg, "),
        ({"0.jpg": b"x", "0.cls": b"cat"}, "sample 0: its .cls holds b'cat', not the number of a class"),
    ],
)
def test_a_tar_of_something_else_is_named(load, tmp_path, members, message):
    (tmp_path / "train").mkdir()
    shard = tmp_path / "train" / "0.tar"
    with tarfile.open(shard, "w") as tar:
        for name, data in members.items():
            (tmp_path / "file").write_bytes(data)
            tar.add(tmp_path / "file", name)
    assert message_of(lambda: load("image_folder", root=str(tmp_path), **SMALL)).startswith(f"{shard}: {message}")


def test_two_kinds_in_one_folder_are_refused(load, own, packed):
    root = own("webdataset")
    (root / "train" / "n01440764").mkdir()
    message = message_of(lambda: load("image_folder", root=str(root), **SMALL))
    assert message == f"{root}/train holds both shards and folders; leave one kind there"
    (root / "train" / "0.tfrecord").touch()
    message = message_of(lambda: load("image_folder", root=str(root), **SMALL))
    assert message == f"{root}/train holds shards of several formats (webdataset, tfrecord); leave those of one there"


def write_as_hugging_face(photos: Path, root: Path, first_class: int = 0) -> None:
    """The layout of timm/imagenet-1k-wds: shards of both splits in one folder, each sample a jpg, a cls and a json file."""
    root.mkdir()
    (root / "_info.json").write_text("{}")
    for split, name, shards_of_split in (
        ("train", "imagenet1k-train-{:04d}.tar", 3),
        ("val", "imagenet1k-validation-{:02d}.tar", 2),
    ):
        files = sorted(photos.glob(f"{split}/*/*"))
        for number in range(shards_of_split):
            with tarfile.open(root / name.format(number), "w") as tar:
                for position in range(number, len(files), shards_of_split):
                    label = first_class + (files[position].parent.name == "odd")
                    key = f"n{label:08d}_{position:04d}"
                    about = {"label": label, "width": 512, "height": 512, "filename": f"{key}.JPEG"}
                    parts = {
                        "cls": str(label).encode(),
                        "jpg": files[position].read_bytes(),
                        "json": json.dumps(about).encode(),
                    }
                    for extension, data in parts.items():
                        member = tarfile.TarInfo(f"{key}.{extension}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
def test_hugging_faces_shards_are_read_as_they_are(load, imagenet_photos, tmp_path, backend):
    """Both splits lie in one folder; each has an index of its own there, and a folder of one split comes first."""
    root = tmp_path / "wds"
    write_as_hugging_face(imagenet_photos, root)
    folder, sharded = (load("image_folder", root=str(each), backend=backend, **SMALL) for each in (imagenet_photos, root))
    assert (sharded.info.classes, sharded.info.train_size, sharded.info.val_size) == (2, 10, 10)
    assert same(folder.train.epoch(1), sharded.train.epoch(1))
    assert same(folder.val, sharded.val)
    assert sorted(path.name for path in root.glob("*.npz")) == ["index-train.npz", "index-val.npz"]
    (root / "val").symlink_to(imagenet_photos / "val")
    message = message_of(lambda: load("image_folder", root=str(root), backend=backend, **SMALL))
    assert message == f"{root}/val lacks classes that {root} has: 0, 1"


def test_a_folder_with_shards_of_one_split_lacks_the_other(load, imagenet_photos, tmp_path):
    root = tmp_path / "wds"
    write_as_hugging_face(imagenet_photos, root)
    for shard in root.glob("*validation*"):
        shard.rename(root / shard.name.replace("validation", "validated"))
    assert message_of(lambda: load("image_folder", root=str(root), **SMALL)).startswith(f"there is no folder {root}/val; ")
