"""Accuracy and loss over a validation set that is shared out between ranks."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dist_sparse import distributed
from dist_sparse.engines import replicas
from dist_sparse.engines.base import Engine
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError
from dist_sparse.execution.execution import Execution
from dist_sparse.sparsity.methods.base import Method


class NoImages(UserError):
    """All validation images were left out."""

    on_all_ranks = True


Scores = Callable[[nn.Module], dict[str, float]]
"""As :func:`validate` gives them."""


def of_networks(engine: Engine, method: Method, execution: Execution, score: Scores) -> tuple[dict[str, float], float]:
    """Every network that a method trains: the metrics to log, those of the last as ``val/``, and its accuracy. Collective."""
    values, top1 = {}, 0.0
    for network in method.networks():
        execution.use(network.masks, network.masks)
        with network.applied(), engine.full_parameters():
            engine.synchronise_buffers()
            replicas.verify(replicas.of_network(engine.model), engine.precision.device)
            scores = score(engine.model)
        values |= {f"val/{name}": value for name, value in scores.items()}
        top1 = scores["top1"]
        if network.label:
            values |= {f"val/{network.label}_top1": top1, f"sparsity/{network.label}_density": network.masks.density()}
    return values, top1


def of_average(average: nn.Module, device: torch.device, score: Scores) -> tuple[dict[str, float], float]:
    """The moving average of the weights: the metrics to log and its accuracy. Collective."""
    distributed.copy_first_rank(average.buffers())
    replicas.verify({"averaged": dict(average.named_buffers())}, device)
    scores = score(average)
    return {f"val/ema_{name}": value for name, value in scores.items()}, scores["top1"]


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
