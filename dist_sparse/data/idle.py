"""Keys of the section ``data`` that do nothing in a run, as its other keys are."""

from collections.abc import Iterator

from dist_sparse.config.augmentation import replaces_jitter
from dist_sparse.config.data import USUAL_FOR_FOLDERS, DataConfig
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.data.small_set import SmallSet
from dist_sparse.errors import UserError

_OTHER_SIZES = ("resize", "eval_size", "min_scale", "progressive", "crop_mode", "interpolation", "eval_interpolation")
_OF_FILES = ("auto_augment", "color_jitter")
_AUGMENTING = ("vertical_flip", "auto_augment", "color_jitter", "random_erasing", "random_erasing_mode", "random_erasing_count")


def check_keys(config: DataConfig) -> None:
    """Raise a UserError for keys that cannot do what they say: a run without them would be another one."""
    if config.name in SMALL_SETS:
        _check_small(config, SMALL_SETS[config.name])
    elif config.name == "image_folder":
        _check_folder(config)
    if config.repeated_augment > 1 and config.forgetting.epochs:
        raise UserError(
            f"data.forgetting.epochs={config.forgetting.epochs} counts over epochs that show every sample once: "
            "data.repeated_augment must be 1"
        )
    if config.bad_images == "skip" and config.forgetting.epochs and config.name not in SMALL_SETS:
        raise UserError(
            f"data.forgetting.epochs={config.forgetting.epochs} counts over epochs that show every sample once: "
            "data.bad_images must be stop, since skip shows a neighbour in a bad image's place"
        )


def _check_small(config: DataConfig, small_set: SmallSet) -> None:
    for key in (*_OTHER_SIZES, *_OF_FILES):
        if getattr(config, key) != USUAL_FOR_FOLDERS[key]:
            advice = f"; python -m dist_sparse.data.make {config.name} writes it as files" if key in _OF_FILES else ""
            raise UserError(f"data.{key} is for image_folder; {config.name} lies on the device as it is{advice}")
    side, padding = config.image_size or small_set.side, config.crop_padding or 0
    if side < small_set.side:
        raise UserError(
            f"data.image_size={side} is less than the {small_set.side} pixels of {config.name}; small sets only grow"
        )
    if config.augment and padding >= side:
        raise UserError(f"data.crop_padding={padding} should be less than the {side} pixels of {config.name}'s images")


def _check_folder(config: DataConfig) -> None:
    for key in ("crop_padding", "padding_mode"):
        if getattr(config, key) is not None:
            raise UserError(f"data.{key} is for small data sets; image_folder crops by data.min_scale")
    if config.download:
        raise UserError("data.download: image_folder is not fetched, it is read from data.root")


def idle_keys(config: DataConfig) -> Iterator[tuple[str, str]]:
    """Names (patterns, within the section) with the reason."""
    small = SMALL_SETS.get(config.name)
    if small is not None:
        for key in ("workers", "backend", "bad_images"):
            yield key, f"{config.name} lies on the device as it is, and has no files of images"
        if small.download is None:
            for key in ("root", "download"):
                yield key, f"{config.name} has no files"
    if not config.augment:
        for key in ("flip", "crop_padding", "padding_mode", "min_scale", *_AUGMENTING):
            yield key, "data.augment is off"
        if config.interpolation == "random" or config.eval_interpolation is not None:
            yield "interpolation", "data.augment is off, so that all images are resized as those of validation"
    elif config.crop_padding == 0:
        yield "padding_mode", "data.crop_padding is 0"
    if not config.random_erasing:
        for key in ("random_erasing_mode", "random_erasing_count"):
            yield key, "data.random_erasing is 0"
    if replaces_jitter(config.auto_augment):
        yield "color_jitter", f"data.auto_augment={config.auto_augment} takes its place, as in timm"
    if not config.forgetting.remove:
        yield "forgetting.epochs", "nothing is left out without data.forgetting.remove; the ranking is saved all the same"
