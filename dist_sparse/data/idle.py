"""Keys of the section ``data`` that do nothing in a run, as its other keys are."""

from collections.abc import Iterator

from dist_sparse.config.data import USUAL_FOR_FOLDERS, DataConfig
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.errors import UserError


def refuse_keys_of_folders(config: DataConfig) -> None:
    """Raise a UserError for a small set whose images are to have other sizes than they can: that would be another run."""
    for key in ("resize", "eval_size", "min_scale", "progressive"):
        if getattr(config, key) != USUAL_FOR_FOLDERS[key]:
            raise UserError(f"data.{key} is for image_folder; {config.name} lies on the device as it is")


def idle_keys(config: DataConfig) -> Iterator[tuple[str, str]]:
    """Names (patterns, within the section) with the reason."""
    small = SMALL_SETS.get(config.name)
    if small is not None:
        for key in ("workers", "backend", "bad_images"):
            yield key, f"{config.name} lies on the device as it is, and has no files of images"
        if small.download is None:
            for key in ("root", "download"):
                yield key, f"{config.name} has no files"
    else:
        for key in ("crop_padding", "padding_mode"):
            yield key, f"is for small sets, and data.name is {config.name}"
    if not config.augment:
        for key in ("flip", "crop_padding", "padding_mode", "min_scale"):
            yield key, "data.augment is off"
    elif config.crop_padding == 0:
        yield "padding_mode", "data.crop_padding is 0"
    if not config.forgetting.remove:
        yield "forgetting.epochs", "nothing is left out without data.forgetting.remove; the ranking is saved all the same"
