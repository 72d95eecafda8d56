"""The packer's command: all or nothing, mistakes in one line. Its shards are read in tests/data/images/test_shards.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_sparse.data import pack
from dist_sparse.data.images.shards import webdataset
from dist_sparse.data.images.shards.formats import FORMATS
from tests.command import here
from tests.full_disk import small_disk
from tests.photos import write_photos


@pytest.fixture
def source(tmp_path) -> Path:
    return write_photos(tmp_path / "source", train=3, val=1)


def refused(*argv: object) -> str:
    outcome = here(pack.main, [str(word) for word in argv])
    assert outcome.code == 2
    (line,) = outcome.errors
    return line


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*") if path.suffix not in (".npz", ".json")
    }


@pytest.mark.parametrize("name", FORMATS)
def test_packing_is_repeatable_and_in_another_order_for_another_seed(source, tmp_path, name):
    results = []
    for number, seed in enumerate((0, 0, 1)):
        argv = [str(source), str(tmp_path / str(number)), f"--format={name}", "--shard-size=4", f"--seed={seed}"]
        assert here(pack.main, argv).code == 0
        results.append(content(tmp_path / str(number)))
    assert results[0] == results[1] != results[2]
    assert sorted(file for file in results[0] if file.startswith("train")) == [
        f"train/{FORMATS[name].file_name.format(split='train', number=number, count=2)}" for number in range(2)
    ]


def test_the_names_of_samples_keep_one_dot_and_the_order():
    assert webdataset.sample_name(12, "/a/n01/photo.of.a.cat.JPEG") == "00000012-photo_of_a_cat.jpeg"


@pytest.mark.parametrize("name", FORMATS)
def test_a_bad_image_is_named_and_nothing_is_left(source, tmp_path, name):
    bad = source / "train" / "flower" / "1.JPEG"
    for data in (b"", bad.read_bytes()[:200], b"no image"):
        bad.write_bytes(data)
        line = refused(source, tmp_path / "dest", f"--format={name}")
        assert line.startswith(f"{bad} cannot be decoded (")
        assert line.endswith("); mend or remove it")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_shards_that_read_back_otherwise_are_refused(source, tmp_path, monkeypatch):
    """A disk that flips a bit: the file is spoilt between writing and reading back."""
    verify = pack._verify

    def spoil_and_verify(files, folder, kind, checksums):
        (shard,) = folder.glob("*.tar")
        data = bytearray(shard.read_bytes())
        data[700] ^= 1
        shard.write_bytes(data)
        verify(files, folder, kind, checksums)

    monkeypatch.setattr(pack, "_verify", spoil_and_verify)
    assert refused(source, tmp_path / "dest", "--format=webdataset").endswith(
        "reads back with another checksum; is the disk in order?"
    )
    assert not (tmp_path / "dest").exists()


def test_a_full_disk_is_one_line(source, tmp_path):
    draw = np.random.default_rng(0)
    for number in range(8):
        noise = Image.fromarray(draw.integers(0, 256, (600, 600, 3), dtype=np.uint8))
        noise.save(source / "train" / "flower" / f"noise_{number}.JPEG", quality=95)
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        line = refused(source, disk / "dest", "--format=webdataset")
        assert line == f"{disk}/dest cannot be written: No space left on device"
        assert list(disk.iterdir()) == []


def test_mistakes_are_one_clear_line(source, tmp_path):
    (tmp_path / "there").mkdir()
    line = refused(source, tmp_path / "there", "--format=webdataset")
    assert line == f"{tmp_path}/there is there already; name a new folder, or remove it"
    assert refused(source, tmp_path / "x", "--format=tfrecord", "--shard-size=0") == "--shard-size=0 should be at least 1"
    assert refused(tmp_path / "no", tmp_path / "x", "--format=tfrecord").startswith(f"there is no folder {tmp_path}/no/train; ")
    assert here(pack.main, [str(source), str(tmp_path / "tars"), "--format=webdataset"]).code == 0
    line = refused(tmp_path / "tars", tmp_path / "x", "--format=tfrecord")
    assert line == f"{tmp_path}/tars/train holds shards, not folders of images"
