"""The two splits of a data set on disk, in whichever format they lie there."""

import os
import re
import stat
from itertools import zip_longest
from pathlib import Path

from dist_sparse.data.images.files import ImageFiles
from dist_sparse.data.images.folder import list_folder, some
from dist_sparse.data.images.shards.files import list_shards
from dist_sparse.data.images.shards.formats import FORMATS
from dist_sparse.data.images.shards.index import INDEX, open_index
from dist_sparse.errors import UserError, one_line

SPLITS = ("train", "val")
_IN_NAMES = {"train": "train|training", "val": "val|valid|validation"}
"""What a split is called in the names of shards that lie beside those of other splits."""


class NoFolder(UserError):
    """A split has no folder that could be read: ``data.root`` is another one, perhaps."""


def list_splits(root: Path, *, skip_damage: bool = False) -> tuple[ImageFiles, ImageFiles]:
    """Training and held-out images: ``root/train`` and ``root/val``, each with a folder a class, or with shards.

    Shards may also lie in ``root`` itself with the split in their names, as in Hugging Face's ``timm/imagenet-1k-wds``.

    Raises UserError for missing or empty folders, for classes that the two splits do not share, that they number otherwise or
    that are but one, and for damaged shards unless ``skip_damage``. What is wrong in both splits is told of both, a line each.
    """
    train, val = _list_both(root, skip_damage=skip_damage)
    for first, second in ((train, val), (val, train)):
        shared = set(second.classes)
        if lacking := [name for name in first.classes if name not in shared]:
            raise UserError(f"{second.place} lacks classes that {first.place} has: {some(lacking)}")
    for number, (name, other) in enumerate(zip_longest(train.classes, val.classes, fillvalue="none")):
        if name != other:
            raise UserError(
                f"the splits number their classes otherwise: class {number} is {one_line(name)} in {train.place} and "
                f"{one_line(other)} in {val.place}; both must have them in one order"
            )
    if len(train.classes) < 2:
        raise UserError(f"{train.place} holds images of one class only, {some([*train.classes])}; a task has two or more")
    return train, val


def _list_both(root: Path, *, skip_damage: bool) -> list[ImageFiles]:
    listed, mistakes = [], []
    for split in SPLITS:
        try:
            listed.append(list_images(root, split, skip_damage=skip_damage))
        except NoFolder:
            if not mistakes:
                raise
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return listed


def list_images(root: Path, split: str, *, skip_damage: bool = False) -> ImageFiles:
    """The images of one split; UserError where a folder is missing, a class has no image, or a shard is damaged."""
    folder = root / split
    layout = f"expected {one_line(root)}/{split}/<class>/*.JPEG, or shards in {one_line(root)}/{split}"
    if not _is_folder(folder):
        if kinds := _shards(root, split):
            return _of_shards(root, kinds, skip_damage=skip_damage, index=f"index-{split}.npz")
        raise NoFolder(f"there is no folder {one_line(folder)}; {_advice(root, layout)}")
    kinds = _shards(folder)
    if not kinds:
        return list_folder(folder, layout)
    if len(kinds) == 1 and any(path.is_dir() for path in folder.iterdir() if not path.name.startswith(".")):
        raise UserError(f"{one_line(folder)} holds both shards and folders; leave one kind there")
    return _of_shards(folder, kinds, skip_damage=skip_damage, index=INDEX)


def _shards(folder: Path, split: str = "") -> dict[str, list[Path]]:
    """The shards in a folder by format; with ``split`` those that it is in the name of, as in imagenet1k-train-0000.tar."""
    named = re.compile(rf"(^|.*[-_.])({_IN_NAMES[split]})[-_.].*") if split else re.compile("[^.].*", re.DOTALL)
    found = {
        name: sorted({path for each in kind.patterns for path in folder.glob(each) if named.fullmatch(path.name)})
        for name, kind in FORMATS.items()
    }
    return {name: paths for name, paths in found.items() if paths}


def _of_shards(folder: Path, kinds: dict[str, list[Path]], *, skip_damage: bool, index: str) -> ImageFiles:
    if len(kinds) > 1:
        raise UserError(f"{one_line(folder)} holds shards of several formats ({', '.join(kinds)}); leave those of one there")
    ((kind, shards),) = kinds.items()
    return list_shards(folder, open_index(folder, shards, FORMATS[kind].scan, skip_damage=skip_damage, name=index))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise NoFolder(f"{one_line(path)} cannot be read: {error.strerror}") from None


def _advice(root: Path, layout: str) -> str:
    """What is there instead of the folders: often they lie one level further up or down."""
    if root.is_file():
        return f"data.root={one_line(root)} is a file; {layout}"
    near = [root.parent, *sorted(path for path in root.glob("*") if path.is_dir())]
    found = [path for path in near if all(os.path.isdir(path / split) for split in SPLITS)]  # noqa: PTH112 -- no errors
    if found:
        return f"did you mean data.root={one_line(found[0])}?"
    return f"{layout} (data.root is the folder above train and val)"
