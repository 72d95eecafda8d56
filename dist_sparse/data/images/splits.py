"""The two splits of a data set on disk, in whichever format they lie there."""

from pathlib import Path

from dist_sparse.data.images.files import ImageFiles
from dist_sparse.data.images.folder import list_folder, some
from dist_sparse.data.images.shards.files import list_shards
from dist_sparse.data.images.shards.formats import FORMATS
from dist_sparse.data.images.shards.index import open_index
from dist_sparse.errors import UserError


def list_splits(root: Path, *, skip_damage: bool = False) -> tuple[ImageFiles, ImageFiles]:
    """Training and held-out images: ``root/train`` and ``root/val``, each with a folder a class, or with shards.

    Raises UserError for missing or empty folders, for classes that the two splits do not share, and for damaged shards
    unless ``skip_damage``.
    """
    train, val = (list_images(root, split, skip_damage=skip_damage) for split in ("train", "val"))
    for first, second in ((train, val), (val, train)):
        shared = set(second.classes)
        if lacking := [name for name in first.classes if name not in shared]:
            raise UserError(f"{second.place} lacks classes that {first.place} has: {some(lacking)}")
    return train, val


def list_images(root: Path, split: str, *, skip_damage: bool = False) -> ImageFiles:
    """The images of one split; UserError where a folder is missing, a class has no image, or a shard is damaged."""
    folder = root / split
    layout = f"expected {root}/{split}/<class>/*.JPEG, or shards in {root}/{split}"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; {layout} (data.root is the folder above train and val)")
    shards = {name: sorted({path for each in kind.patterns for path in folder.glob(each)}) for name, kind in FORMATS.items()}
    kinds = [name for name, paths in shards.items() if paths]
    if not kinds:
        return list_folder(folder, layout)
    if len(kinds) > 1:
        raise UserError(f"{folder} holds shards of several formats ({', '.join(kinds)}); leave those of one there")
    if any(path.is_dir() for path in folder.iterdir()):
        raise UserError(f"{folder} holds both shards and folders; leave one kind there")
    (kind,) = kinds
    return list_shards(folder, open_index(folder, shards[kind], FORMATS[kind].scan, skip_damage=skip_damage))
