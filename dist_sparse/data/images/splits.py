"""The two splits of a data set on disk, in whichever format they lie there."""

from pathlib import Path

from dist_sparse.data.images.files import ImageFiles
from dist_sparse.data.images.folder import list_folder, some
from dist_sparse.errors import UserError


def list_splits(root: Path) -> tuple[ImageFiles, ImageFiles]:
    """Training and held-out images: ``root/train`` and ``root/val``, each with a folder a class.

    Raises UserError for missing or empty folders and for classes that the two splits do not share.
    """
    train, val = list_images(root, "train"), list_images(root, "val")
    for first, second in ((train, val), (val, train)):
        lacking = sorted(set(first.classes) - set(second.classes))
        if lacking:
            raise UserError(f"{second.place} lacks classes that {first.place} has: {some(lacking)}")
    return train, val


def list_images(root: Path, split: str) -> ImageFiles:
    """The images of one split; UserError where a folder is missing or a class has none."""
    folder = root / split
    layout = f"expected {root}/{split}/<class>/*.JPEG"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; {layout} (data.root is the folder above train and val)")
    return list_folder(folder, layout)
