"""Accuracy and loss over a validation set that is shared out between ranks."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_sparse import distributed
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError


class NoImages(UserError):
    """All validation images were left out."""

    on_all_ranks = True


@torch.no_grad()
def validate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor, Tensor]], precision: Precision) -> dict[str, float]:
    """``top1`` and ``top5`` as fractions, and the mean cross-entropy ``loss``, over the samples of all ranks. Collective.

    With fewer than five classes ``top5`` counts all of them.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=precision.device)
    for images, labels, _ in batches:
        with precision.autocast():
            logits = model(precision.place_images(images))
        sums += batch_sums(logits if logits.dtype == torch.float64 else logits.float(), labels)
    model.train(was_training)
    correct1, correct5, loss, count = distributed.sum_over_ranks(sums).tolist()
    if not count:
        raise NoImages("no validation image could be read")
    return {"top1": correct1 / count, "top5": correct5 / count, "loss": loss / count}


def batch_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """A batch's samples that are correct in the first and in the first five, its summed loss, and its count: float64 [4]."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    hits = best == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([hits[:, 0].sum(), hits.sum(), loss, hits.new_tensor(len(labels), dtype=torch.int64)]).to(torch.float64)
