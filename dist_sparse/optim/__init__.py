"""What turns gradients into weights: timm's optimizers and schedules, and the regularisers around the loss."""

from dist_sparse.optim.anew import check_exchangeable
from dist_sparse.optim.flat import check_flattenable
from dist_sparse.optim.optimizer import build_optimizer, effective_lr
from dist_sparse.optim.predictions import Predictions
from dist_sparse.optim.regularise import SeededMixup, build_ema, build_loss, build_mixup
from dist_sparse.optim.scheduler import build_scheduler
from dist_sparse.optim.zeros import ZeroPreservation, check_untrained, check_zero_preservation, try_zero_preservation

__all__ = [
    "Predictions",
    "SeededMixup",
    "ZeroPreservation",
    "build_ema",
    "build_loss",
    "build_mixup",
    "build_optimizer",
    "build_scheduler",
    "check_exchangeable",
    "check_flattenable",
    "check_untrained",
    "check_zero_preservation",
    "effective_lr",
    "try_zero_preservation",
]
