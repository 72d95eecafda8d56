"""Mixup and cutmix, label smoothing, and the moving average of the weights."""

from collections.abc import Callable, Iterator

import numpy as np
from timm.data.mixup import Mixup
from timm.loss import BinaryCrossEntropy
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from dist_sparse.config.schema import TrainConfig
from dist_sparse.errors import UserError
from dist_sparse.seeding import derive_seed

Loss = Callable[[Tensor, Tensor], Tensor]


class SeededMixup:
    """timm's batch-wise mixup and cutmix, drawn anew at each step as a pure function of seed and step.

    So all ranks draw the same lambda and the same box, and a resumed run draws what the uninterrupted one would.
    """

    def __init__(self, mixup: Mixup, seed: int):
        self._mixup, self._seed = mixup, seed

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mix a batch with its reverse.

        Args:
            images: [B, C, H, W] float, mixed in place; B even.
            labels: [B] int64.

        Returns:
            The images, and soft targets [B, classes] that sum to one, label smoothing included.
        """
        # timm draws from numpy's global generator: lend it a seed of our own for the call.
        state = np.random.get_state()  # noqa: NPY002
        seed = derive_seed("mixup", self._seed, step)
        np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # noqa: NPY002
        try:
            return self._mixup(images, labels)
        finally:
            np.random.set_state(state)  # noqa: NPY002


def build_mixup(config: TrainConfig, classes: int, *, seed: int, world_size: int) -> SeededMixup | None:
    """Mixup and cutmix as configured (both: one or the other with equal odds), or None if both are off.

    Raises:
        UserError: a rank's micro-batch is odd, or there is no such distribution of shares.
    """
    if not _mixes(config):
        return None
    if (micro_batch := config.batch_size // (config.accumulation * world_size)) % 2:
        raise UserError(
            f"train.mixup and train.cutmix mix samples in pairs and need an even micro-batch on each rank, not {micro_batch}; "
            "change train.batch_size or train.accumulation"
        )
    for key, alpha in (("mixup", config.mixup), ("cutmix", config.cutmix)):
        if alpha and not np.isfinite(np.random.RandomState(0).beta(alpha, alpha)):
            raise UserError(f"train.{key}={alpha:g}: no share can be drawn from Beta({alpha:g}, {alpha:g})")
    mixup = Mixup(config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=classes)
    return SeededMixup(mixup, seed)


def build_loss(config: TrainConfig) -> Loss:
    """The loss of logits [B, classes] for labels [B] and soft targets [B, classes] alike, the mean over samples.

    Cross-entropy, or timm's binary cross-entropy of each class. With mixup the targets are smoothed already.
    """
    smoothing = 0.0 if _mixes(config) else config.label_smoothing
    if config.bce:
        return BinaryCrossEntropy(smoothing, target_threshold=config.bce_threshold, sum_classes=config.bce_sum)
    return nn.CrossEntropyLoss(label_smoothing=smoothing)


def build_ema(config: TrainConfig, model: nn.Module) -> ModelEmaV3 | None:
    """The moving average of a model (not wrapped by an engine), or None if it is off.

    Call ``update(model, step=n)`` after the n-th step, counted from 1: the first copies. Floating point buffers, such as the
    statistics of a batch norm, are averaged like the weights, others copied. ``.module.state_dict()`` loads into a plain model.
    """
    return ModelEmaV3(model, decay=config.ema, use_warmup=config.ema_warmup) if config.ema is not None else None


def idle_keys(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Keys of the section ``train`` that do nothing as the others are, and why."""
    if not config.bce:
        yield from ((key, "train.bce is false") for key in ("bce_threshold", "bce_sum"))
    if config.ema is None:
        yield "ema_warmup", "train.ema is off"


def _mixes(config: TrainConfig) -> bool:
    return config.mixup > 0 or config.cutmix > 0
