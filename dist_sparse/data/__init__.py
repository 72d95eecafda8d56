"""Data sets: small ones that lie on the device, and folders of images read by worker processes."""

import torch

from dist_sparse.config.data import DataConfig
from dist_sparse.data.batch import Batch, Data, DataInfo, Loading, TrainLoader, ValLoader
from dist_sparse.data.idle import refuse_keys_of_folders
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.data.small import build_small
from dist_sparse.errors import UserError, is_unknown

__all__ = ["Batch", "Data", "DataInfo", "TrainLoader", "ValLoader", "build_data"]


def build_data(
    config: DataConfig,
    *,
    batch_size: int,
    accumulation: int,
    eval_batch_size: int,
    rank: int,
    world_size: int,
    device: torch.device,
    seed: int,
    epochs: int = 1,
    channels_last: bool = False,
) -> Data:
    """The data set ``config.name`` for one of ``world_size`` ranks.

    ``batch_size`` counts the samples of an optimizer step over all ranks and accumulation steps, ``eval_batch_size`` those
    of one rank; ``epochs`` is the run's length. With ``channels_last`` images come in that memory format where it is free.
    Raises UserError for an unknown name, a batch that cannot be shared out, and missing or damaged files.
    """
    loading = Loading(
        batch_size=batch_size,
        accumulation=accumulation,
        eval_batch_size=eval_batch_size,
        rank=rank,
        world_size=world_size,
        device=device,
        seed=seed,
        epochs=epochs,
        channels_last=channels_last,
    )
    if config.name in SMALL_SETS:
        refuse_keys_of_folders(config)
        return build_small(config, SMALL_SETS[config.name], loading)
    if config.name == "image_folder":
        from dist_sparse.data.images.build import build_images

        return build_images(config, loading)
    raise UserError(f"data.name={config.name!r} {is_unknown(config.name, [*SMALL_SETS, 'image_folder'])}")
