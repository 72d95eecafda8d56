"""Data sets: small ones that lie on the device, and folders of images read by worker processes."""

from dist_sparse.config.data import DataConfig
from dist_sparse.data.batch import Batch, Data, DataInfo, Loading, TrainLoader, ValLoader
from dist_sparse.data.idle import check_keys
from dist_sparse.data.readers import SMALL_SETS
from dist_sparse.data.small import build_small
from dist_sparse.errors import UserError, is_unknown

__all__ = ["Batch", "Data", "DataInfo", "Loading", "TrainLoader", "ValLoader", "build_data"]


def build_data(config: DataConfig, loading: Loading) -> Data:
    """The data set ``config.name`` for the rank that ``loading`` describes.

    Raises:
        UserError: the name is unknown, the batch cannot be shared out over the ranks, or files are missing or damaged.
    """
    check_keys(config)
    if config.name in SMALL_SETS:
        return build_small(config, SMALL_SETS[config.name], loading)
    if config.name == "image_folder":
        from dist_sparse.data.images.build import build_images

        return build_images(config, loading)
    raise UserError(f"data.name={config.name!r} {is_unknown(config.name, [*SMALL_SETS, 'image_folder'])}")
