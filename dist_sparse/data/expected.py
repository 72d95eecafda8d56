"""The facts about a data set before it is read, for a plan that is made where the data may not be."""

import os
from dataclasses import replace

from dist_sparse.config.data import DataConfig
from dist_sparse.data.batch import DataInfo
from dist_sparse.data.idle import check_keys
from dist_sparse.data.images.sizes import DEFAULT_IMAGE_SIZE
from dist_sparse.data.images.splits import list_splits
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.data.small_set import MissingFilesError
from dist_sparse.errors import UserError, is_unknown, one_line
from dist_sparse.inputs import expand

_IMAGENET = (1_000, 1_281_167, 50_000)
"""Classes, training and validation images of ILSVRC 2012."""


def expected_info(config: DataConfig) -> tuple[DataInfo, str]:
    """The facts, and where they are from in a few words.

    Those of a small set are the published ones. A folder of images is listed; where there is none, ImageNet is assumed.

    Raises:
        UserError: an unknown name, or a folder that is there and cannot be used.
    """
    check_keys(config)
    if config.name in SMALL_SETS:
        known = SMALL_SETS[config.name]
        side = config.image_size or known.side
        facts = DataInfo(config.name, known.classes, len(known.mean), side, known.train_size, known.val_size)
        return _limited(facts, config), "as published"
    if config.name != "image_folder":
        raise UserError(f"data.name={config.name!r} {is_unknown(config.name, [*SMALL_SETS, 'image_folder'])}")
    side, root = config.eval_size or config.image_size or DEFAULT_IMAGE_SIZE, expand(config.root)
    if not os.path.exists(root):  # noqa: PTH110 -- Path.exists raises for a name that no file can have
        classes, train, val = _IMAGENET
        facts = DataInfo(config.name, classes, 3, side, train, val)
        return _limited(facts, config), f"ImageNet's, since there is no folder {one_line(root)}"
    train_files, val_files = list_splits(root, skip_damage=config.bad_images == "skip")
    facts = DataInfo(config.name, len(train_files.classes), 3, side, len(train_files.labels), len(val_files.labels))
    return _limited(facts, config), f"counted in {one_line(root)}"


def _limited(info: DataInfo, config: DataConfig) -> DataInfo:
    if config.limit is None:
        return info
    return replace(info, train_size=min(info.train_size, config.limit), val_size=min(info.val_size, config.limit))


def is_there(config: DataConfig) -> bool:
    """The data set lies where it is looked for, or may be fetched; whether it is in order shows when it is read."""
    root = expand(config.root)
    if config.name not in SMALL_SETS:
        return os.path.exists(root)  # noqa: PTH110
    try:
        SMALL_SETS[config.name].read(root)
    except MissingFilesError:
        return config.download
    return True
