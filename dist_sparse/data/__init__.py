"""Data sets: small ones that lie on the device, and folders of images read by worker processes."""

import torch

from dist_sparse.config.data import DataConfig
from dist_sparse.data.batch import Batch, Data, DataInfo, Loading, TrainLoader, ValLoader
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
) -> Data:
    """The data set ``config.name`` for one of ``world_size`` ranks.

    ``batch_size`` counts the samples of an optimizer step over all ranks and accumulation steps, ``eval_batch_size`` those
    of one rank. Raises UserError for an unknown name, a batch that cannot be shared out, and missing or damaged files.
    """
    loading = Loading(
        batch_size=batch_size,
        accumulation=accumulation,
        eval_batch_size=eval_batch_size,
        rank=rank,
        world_size=world_size,
        device=device,
        seed=seed,
    )
    if config.name in SMALL_SETS:
        return build_small(config, SMALL_SETS[config.name], loading)
    if config.name == "image_folder":
        from dist_sparse.data.folder import build_folder

        return build_folder(config, loading)
    raise UserError(f"data.name={config.name!r} {is_unknown(config.name, [*SMALL_SETS, 'image_folder'])}")
