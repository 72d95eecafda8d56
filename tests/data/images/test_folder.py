"""Folders as they are met on disks: without classes, without permission, with links in a circle and with what is no image."""

import os
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from dist_sparse.data.images.splits import list_images, list_splits
from tests.data.compare import message_of
from tests.privileges import unprivileged

LAYOUT = "expected {root}/val/<class>/*.JPEG, or shards in {root}/val"


@pytest.fixture
def root(write_jpegs, tmp_path) -> Path:
    for number, (split, name) in enumerate((split, name) for split in ("train", "val") for name in ("cat", "dog")):
        write_jpegs(tmp_path / split / name, 3, side=16, seed=number)
    return tmp_path


def names(root: Path, split: str = "train") -> list[str]:
    files = list_images(root, split)
    return [files.name(position).removeprefix(f"{root}/{split}/") for position in range(len(files.labels))]


def test_the_order_is_imagefolders(root):
    for place in ("train/cat/b", "train/cat/a/c", "train/cat/a.b"):
        (root / place).mkdir(parents=True)
        for name in ("2.JPEG", "10.png", "x.txt"):
            (root / place / name).write_bytes(b"x")
    expected = [path.removeprefix(f"{root}/train/") for path, _ in ImageFolder(str(root / "train")).samples]
    assert names(root) == expected


def test_images_without_class_folders_are_not_called_empty(root):
    for folder in (root / "val").iterdir():
        for number, file in enumerate(sorted(folder.iterdir())):
            file.rename(root / "val" / f"ILSVRC2012_val_{folder.name}{number}.JPEG")
        folder.rmdir()
    assert message_of(lambda: list_splits(root)) == (
        f"{root}/val holds 6 images (ILSVRC2012_val_cat0.JPEG and 5 more) without class folders, so nothing says which class "
        "they are of; move each into a folder of its class (for ImageNet: by the list of labels that comes with it); "
        f"{LAYOUT.format(root=root)}"
    )


def test_images_beside_the_class_folders_are_told_of(root, caplog):
    (root / "val" / "loose.JPEG").write_bytes(b"x")
    assert len(names(root, "val")) == 6
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}/val: images outside the class folders are left out: loose.JPEG"
    ]


def test_a_folder_of_something_else_says_of_what(root):
    for name in ("cat", "dog"):
        (root / "val" / name).rename(root / name)
    assert message_of(lambda: list_splits(root)) == f"{root}/val is empty; {LAYOUT.format(root=root)}"
    (root / "val" / "labels.txt").touch()
    message = message_of(lambda: list_splits(root))
    assert message == f"{root}/val has no class folder, only labels.txt; {LAYOUT.format(root=root)}"


def test_hidden_and_foreign_files_are_left_out(root):
    before = names(root)
    for name in ("._cat_0.JPEG", ".DS_Store", "Thumbs.db", "notes.txt"):
        (root / "train" / "cat" / name).write_bytes(b"x")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / ".ipynb_checkpoints" / "cat_0-checkpoint.JPEG").write_bytes(b"x")
    assert names(root) == before


def test_links_in_a_circle_are_followed_once(root):
    before = names(root)
    (root / "train" / "cat" / "again").symlink_to(".")
    (root / "train" / "cat" / "up").symlink_to("..")
    (root / "train" / "dog" / "top").symlink_to(root)
    (root / "train" / "dog" / "itself").symlink_to("itself")
    assert names(root) == before
    (root / "train" / "dog" / "cat").symlink_to("../cat")
    assert names(root) == before + [f"dog/cat/cat_{number}.JPEG" for number in range(3)]


@pytest.mark.parametrize("locked", ["train", "train/dog"])
def test_a_folder_without_permission_is_not_called_empty(root, locked):
    with unprivileged(root / locked):
        assert message_of(lambda: list_splits(root)) == f"{root}/{locked} cannot be read: Permission denied"


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
def test_what_is_no_file_is_a_bad_image_and_keeps_nobody_waiting(load, root, backend):
    keys = {"root": str(root), "backend": backend, "image_size": 16, "workers": 0, "batch_size": 2}
    odd = root / "val" / "cat" / "a.JPEG"
    os.mkfifo(odd)
    message = message_of(lambda: list(load("image_folder", **keys).val))
    assert message.startswith(f"{odd} cannot be decoded (not a file, but a folder, a pipe or a device); ")
    odd.unlink()
    odd.touch()
    assert message_of(lambda: list(load("image_folder", **keys).val)).startswith(
        f"{odd} cannot be decoded (the file is empty); "
    )
    odd.unlink()
    odd.symlink_to("nowhere")
    message = message_of(lambda: list(load("image_folder", **keys).val))
    assert message.startswith(f"{odd} cannot be decoded (No such file or directory); ")


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
def test_names_that_are_not_utf8_or_hold_a_line_break(load, root, backend):
    keys = {"root": str(root), "backend": backend, "image_size": 16, "workers": 0, "batch_size": 2}
    for name, shown in (
        (b"caf\xe9.JPEG", "caf\\xe9.JPEG"),
        (b"a\nb.JPEG", "a\\nb.JPEG"),
        (b"\xc3\xa9\x1b[2J.JPEG", "é\\x1b[2J.JPEG"),
    ):
        odd = os.fsencode(root / "val" / "cat") + b"/" + name
        with open(odd, "wb"):  # noqa: PTH123
            pass
        message = message_of(lambda: list(load("image_folder", **keys).val))
        assert message.startswith(f"{root}/val/cat/{shown} cannot be decoded (the file is empty); ")
        os.unlink(odd)  # noqa: PTH108


@pytest.mark.parametrize("backend", ["torchvision", "dali"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image in a known format"),
        (b"P6 20000 20000 255\n", "Image size (400000000 pixels) exceeds limit of "),
    ],
    ids=["PostScript", "bomb"],
)
def test_what_a_stranger_may_put_into_an_image(load, root, backend, content, reason):
    """A program in PostScript, for which Pillow would start Ghostscript, and more pixels than memory may hold."""
    odd = root / "val" / "cat" / "a.JPEG"
    odd.write_bytes(content)
    data = load("image_folder", root=str(root), backend=backend, image_size=16, workers=0, batch_size=2)
    assert message_of(lambda: list(data.val)).startswith(f"{odd} cannot be decoded ({reason}")
