"""What tells data sets apart: names of classes, and the samples of each class in order, however they are stored."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_sparse.data import pack
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.identity import check_classes, other_classes, other_samples, samples_of
from dist_sparse.data.images.shards.files import CLASSES
from dist_sparse.data.images.shards.index import INDEX
from dist_sparse.errors import UserError
from tests.command import here
from tests.data.compare import message_of, messages_of

Facts = Callable[..., dict[str, Any]]


@pytest.fixture
def root(write_jpegs, tmp_path) -> Path:
    for number, (split, name) in enumerate((split, name) for split in ("train", "val") for name in ("cat", "dog", "elk")):
        write_jpegs(tmp_path / "images" / split / name, 4, side=16, seed=number)
    return tmp_path / "images"


@pytest.fixture
def facts(load) -> Facts:
    def read(root: Path, **keys: Any) -> dict[str, Any]:
        return dataclasses.asdict(load("image_folder", root=str(root), workers=0, image_size=16, batch_size=2, **keys).info)

    return read


def differences(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, str]:
    return other_classes(first, second), other_samples(first, second)


def test_a_renamed_class_is_named(root, facts):
    before = facts(root)
    for split in ("train", "val"):
        (root / split / "cat").rename(root / split / "zebra")
    assert other_classes(before, facts(root)) == "class 0 cat (now dog)"
    message = message_of(lambda: check_classes(before, facts(root)))
    assert message == "the data set has other classes than the checkpoint's, which has class 0 cat (now dog)"


def test_a_class_less_is_named(root, facts):
    before = facts(root)
    for split in ("train", "val"):
        (root / split / "elk").rename(root / f"{split}-elk")
    assert other_classes(before, facts(root)) == "class 2 elk (now none)"
    unnamed = {**before, "class_names": ()}
    assert message_of(lambda: check_classes(unnamed, facts(root))).endswith("which has 3 classes (now 2)")


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_samples_are_told_by_their_class(root, facts, split):
    before, text = facts(root), {"train": "training", "val": "validation"}[split]
    (root / split / "dog" / "dog_1.JPEG").rename(root / split / "dog" / "dog_7.JPEG")
    assert differences(before, facts(root)) == ("", f"other {text} samples of class dog, or another order of them")
    (root / split / "dog" / "dog_7.JPEG").unlink()
    assert differences(before, facts(root)) == ("", f"4 {text} samples of class dog (now 3)")
    assert differences(before, before) == ("", "")


def test_the_order_of_the_labels_counts():
    keys = [b"a", b"b", b"c", b"d"]
    one, other = (samples_of(np.array(labels), [keys[n] for n in order], 2) for labels, order in
                  (([0, 0, 1, 1], [0, 1, 2, 3]), ([0, 1, 0, 1], [0, 2, 1, 3])))  # fmt: skip
    assert one.digests == other.digests
    before, now = (dataclasses.asdict(DataInfo("x", 2, 3, 8, 4, 4, train_samples=each)) for each in (one, other))
    assert other_samples(before, now) == "another order of the training samples"


def test_a_limit_is_of_the_samples_in_use(root, facts):
    assert sum(facts(root, limit=6)["train_samples"]["counts"]) == 6
    assert other_samples(facts(root, limit=6), facts(root, limit=7)).endswith("(now 3)")


@pytest.mark.parametrize("form", ["webdataset", "tfrecord"])
def test_shards_are_the_folders_they_were_packed_from(root, facts, tmp_path, form):
    """Names that are not UTF-8, of 8 digits or with dots in them too; and with the index made anew."""
    odd = [b"caf\xe9.1.JPEG", b"00000001-x.JPEG", b"a\nb.JPEG", b"x" * 250 + b".JPEG"]
    for number, name in enumerate(odd):
        (root / "train" / "cat" / f"cat_{number}.JPEG").rename(os.fsdecode(os.fsencode(root / "train" / "cat") + b"/" + name))
    for split in ("train", "val"):
        (root / split / "dog").rename(os.fsdecode(os.fsencode(root / split) + b"/h\xfcnd\nx"))
    outcome = here(pack.main, [str(root), str(tmp_path / "shards"), f"--format={form}", "--shard-size=5"])
    assert (outcome.code, outcome.errors) == (0, [])
    expected = facts(root)
    assert expected["class_names"] == ("cat", "elk", os.fsdecode(b"h\xfcnd\nx"))
    assert facts(tmp_path / "shards") == expected
    (tmp_path / "shards" / "train" / INDEX).unlink()
    assert facts(tmp_path / "shards") == expected
    for split in ("train", "val"):
        (tmp_path / "shards" / split / CLASSES).unlink()
    nameless = facts(tmp_path / "shards")
    assert nameless["class_names"] == ()
    assert differences(expected, nameless) == ("", "")


@pytest.mark.parametrize("content", [b"", b"{}", b'["cat"]', b"\xff", b"3"])
def test_damaged_names_of_classes_are_one_line(root, facts, tmp_path, content):
    assert here(pack.main, [str(root), str(tmp_path / "shards"), "--format=webdataset"]).code == 0
    path = tmp_path / "shards" / "train" / CLASSES
    path.write_bytes(content)
    message = message_of(lambda: facts(tmp_path / "shards"))
    assert message == f"{path} is not a list of names of all classes; mend it or remove it"


def test_a_small_set_is_told_apart_by_its_pixels(load, monkeypatch):
    from dist_sparse.data import readers

    before = load("digits").info
    assert before.class_names == tuple("0123456789")
    assert sum(before.train_samples.counts) == 1437
    assert dataclasses.replace(load("digits", image_size=12).info, image_size=8) == before
    read = readers.SMALL_SETS["digits"].read

    def other(root):
        train, val = read(root)
        train.images[train.labels == 3] = train.images[train.labels == 3].flip(-1)
        return train, val

    monkeypatch.setitem(readers.SMALL_SETS, "digits", dataclasses.replace(readers.SMALL_SETS["digits"], read=other))
    after = load("digits").info
    assert differences(dataclasses.asdict(before), dataclasses.asdict(after)) == (
        "",
        "other training samples of class 3, or another order of them",
    )


def test_one_class_is_no_task(root, facts):
    for split in ("train", "val"):
        for name in ("dog", "elk"):
            (root / split / name).rename(root / f"{split}-{name}")
    assert message_of(lambda: facts(root)) == f"{root}/train holds images of one class only, cat; a task has two or more"


def test_splits_that_number_their_classes_otherwise_are_refused(root, facts, tmp_path):
    assert here(pack.main, [str(root), str(tmp_path / "shards"), "--format=webdataset"]).code == 0
    path = tmp_path / "shards" / "val" / CLASSES
    path.write_text(json.dumps(["cat", "elk", "dog"]))
    message = message_of(lambda: facts(tmp_path / "shards"))
    assert message == (
        f"the splits number their classes otherwise: class 1 is dog in {tmp_path}/shards/train and "
        f"elk in {path.parent}; both must have them in one order"
    )


def test_folders_one_level_too_deep_or_not_deep_enough_are_found_out(root, facts):
    for wrong in (root.parent, root / "train"):
        assert message_of(lambda wrong=wrong: facts(wrong)).endswith(f"; did you mean data.root={root}?")
    file = root / "train" / "cat" / "cat_0.JPEG"
    assert message_of(lambda: facts(file)).startswith(f"there is no folder {file}/train; data.root={file} is a file; expected ")
    for split in ("train", "val"):
        (root / split).rename(root / "images")
        (root / split).mkdir()
        (root / "images").rename(root / split / "images")
    assert messages_of(lambda: facts(root)) == [
        f"{root}/{split} has only the folder images, with no image but 3 folders in it (cat, dog, elk): "
        f"if these are the classes, move them one level up; expected {root}/{split}/<class>/*.JPEG, or shards in {root}/{split}"
        for split in ("train", "val")
    ]


def test_a_name_that_no_file_can_have_is_one_line(root, facts):
    long = root / ("x" * 300)
    assert message_of(lambda: facts(long)) == f"{long}/train cannot be read: File name too long"
    outcome = here(pack.main, [str(root), str(long), "--format=webdataset"])
    assert outcome.errors == [f"{long} cannot be written: File name too long"]


def test_a_home_folder_is_found(root, facts, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(root.parent))
    assert facts(Path("~") / root.name) == facts(root)
    assert here(pack.main, [f"~/{root.name}", "~/packed", "--format=webdataset"]).code == 0
    assert facts(tmp_path / "packed") == facts(root)
    with pytest.raises(UserError, match=r"^there is no folder ~nobody-of-this-name/x/train; "):
        facts(Path("~nobody-of-this-name/x"))
