"""The names under which a run logs."""

from dist_sparse.sparsity.methods.base import Method

COLUMNS = (
    "train/loss",
    "train/lr",
    "val/top1",
    "val/top5",
    "val/loss",
    "val/ema_top1",
    "val/ema_top5",
    "val/ema_loss",
    "sparsity/density",
    "sparsity/mean_density",
    "sparsity/peak_density",
    "sparsity/mask_digest",
    "sparsity/changed",
    "sparsity/exploration",
    "time/images_per_second",
    "time/seconds_per_step",
    "execution/flops_saved",
    "execution/sparse_layers",
    "memory/peak_bytes",
)
"""The logged names, and the columns of metrics.csv after step and epoch."""


def columns_of(method: Method) -> tuple[str, ...]:
    """The columns of a run; where it trains several networks, with those of each."""
    labels = [network.label for network in method.networks() if network.label]
    return (*COLUMNS, *(f"val/{label}_top1" for label in labels), *(f"sparsity/{label}_density" for label in labels))
