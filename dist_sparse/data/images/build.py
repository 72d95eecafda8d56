"""From the keys of ``data`` to the loaders of an image data set."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Literal

from dist_sparse.config.data import DataConfig
from dist_sparse.data.batch import Data, DataInfo, Loading, Normalise
from dist_sparse.data.erasing import erasing_of
from dist_sparse.data.identity import Samples, samples_of
from dist_sparse.data.images.files import ChosenFiles, ImageFiles
from dist_sparse.data.images.loaders import Backend, BatchFinisher, ImageTrainLoader, ImageValLoader
from dist_sparse.data.images.policy import Policy
from dist_sparse.data.images.resizing import eval_interpolation
from dist_sparse.data.images.sizes import Sizes, sizes_of
from dist_sparse.data.images.splits import list_splits
from dist_sparse.data.images.windows import CentreWindows, RandomWindows, Windows
from dist_sparse.data.limit import spread
from dist_sparse.data.normalisation import chosen
from dist_sparse.data.order import BatchPlan, validation_share
from dist_sparse.errors import UserError
from dist_sparse.inputs import expand

logger = logging.getLogger(__name__)


def build_images(config: DataConfig, loading: Loading) -> Data:
    """List the images and make their loaders; errors as in :func:`dist_sparse.data.build_data`."""
    backend = _choose_backend(config.backend)
    skip = config.bad_images == "skip"
    splits = list_splits(expand(config.root), skip_damage=skip)
    train_files, val_files = (_limited(files, config.limit) for files in splits)
    plan = BatchPlan(config.name, len(train_files.labels), loading, config.repeated_augment)
    sizes = sizes_of(config, epochs=loading.epochs, steps_per_epoch=plan.steps_per_epoch)
    to_train, to_val = _windows(config, sizes, loading.seed)
    usual = {"workers": config.workers}
    train = backend(
        train_files,
        to_train,
        loading,
        **usual,
        batch_size=plan.share_size,
        substitute=skip,
        policy=_policy(config, loading.seed),
    )
    val = backend(val_files, to_val, loading, **usual, batch_size=loading.eval_batch_size, substitute=False)
    common = {"stop": not skip, "device": loading.device, "normalise": Normalise(*chosen(config), loading.device)}
    finish = BatchFinisher(**common, erase=erasing_of(config, loading.seed)), BatchFinisher(**common)
    share = validation_share(len(val_files.labels), loading)
    return Data(
        train=ImageTrainLoader(train, plan, finish[0]),
        val=ImageValLoader(val, share, loading, finish[1]),
        info=DataInfo(
            name=config.name,
            classes=len(train_files.classes),
            channels=3,
            image_size=sizes.evaluation,
            train_size=len(train_files.labels),
            val_size=len(val_files.labels),
            class_names=train_files.class_names,
            train_samples=_samples(train_files),
            val_samples=_samples(val_files),
        ),
        train_sizes=frozenset(map(sizes.at, range(loading.epochs))),
        backends=(train, val),
    )


def _samples(files: ImageFiles) -> Samples:
    return samples_of(files.labels, files.keys(), len(files.classes))


def _limited(files: ImageFiles, limit: int | None) -> ImageFiles:
    chosen = spread(len(files.labels), limit)
    return files if isinstance(chosen, slice) else ChosenFiles.among(files, chosen)


def _windows(config: DataConfig, sizes: Sizes, seed: int) -> tuple[Windows, Windows]:
    """How training and validation images are looked at."""
    mean = chosen(config).mean
    centre = partial(
        CentreWindows,
        resize_ratio=sizes.resize / sizes.evaluation,
        mode=config.crop_mode or "center",
        interpolation=eval_interpolation(config),
        colour=(round(255 * mean[0]), round(255 * mean[1]), round(255 * mean[2])),
    )
    validation = centre(sizes.in_validation)
    if not config.augment:
        return centre(sizes.at), validation
    training = RandomWindows(
        seed, config.min_scale, config.flip is not False, sizes.at, config.vertical_flip, config.interpolation or "bilinear"
    )
    return training, validation


def _policy(config: DataConfig, seed: int) -> Policy | None:
    """What else is done to the training images; None where it is nothing."""
    if not config.augment or (config.auto_augment is None and not config.color_jitter):
        return None
    interpolation, mean = config.interpolation or "bilinear", chosen(config).mean
    return Policy(config.auto_augment, config.color_jitter, mean=mean, interpolation=interpolation, seed=seed)


def _choose_backend(name: Literal["auto", "dali", "torchvision"]) -> Callable[..., Backend]:
    """The class of the backend; UserError where it is asked for and not there."""
    if name != "torchvision":
        try:
            from dist_sparse.data.images.dali_backend import DaliBackend
        except ImportError:
            if name == "dali":
                raise UserError(
                    "data.backend=dali needs NVIDIA DALI, which is not installed here: pip install nvidia-dali-cuda130, or set "
                    "it to torchvision"
                ) from None
            logger.info("data.backend=auto: NVIDIA DALI is not installed, torchvision decodes the images")
        else:
            if name == "auto":
                logger.info("data.backend=auto: NVIDIA DALI decodes the images")
            return DaliBackend
    from dist_sparse.data.images.torchvision_backend import TorchvisionBackend

    return TorchvisionBackend
