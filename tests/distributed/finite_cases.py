"""What the ranks of a world are asked to do with numbers that are not finite."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from dist_sparse.trainer import Trainer
from tests.distributed.cases import trainer_for


def spoilt_on_one_rank(values: dict[str, Any], folder: str, spoilt_step: int, factor: float) -> list[dict[str, bool]]:
    """Steps of which one has images times ``factor`` on the last rank; what each of them has moved, as this rank sees it."""
    trainer, _ = trainer_for(values, folder)
    with contextlib.closing(trainer.engine):
        trainer.method.start()
        moved, before = [], held(trainer)
        batches = iter(trainer.data.train.epoch(0))
        for step in range(1, spoilt_step + 3):
            batch = next(batches)
            if step == spoilt_step and trainer.ranks.rank == trainer.ranks.world_size - 1:
                batch = batch._replace(images=batch.images * factor)
            trainer.train_on(batch, step - 1)
            after = held(trainer)
            moved.append({what: not torch.equal(before[what], after[what]) for what in after})
            before = after
        return [{**each, "in order": not trainer._soundness.complaints(trainer.state_dict())} for each in moved]


def refused_on_one_rank(values: dict[str, Any], folder: str) -> list[str]:
    """What is complained of when only the last rank's part of the optimizer's state is not finite."""
    trainer, _ = trainer_for(values, folder)
    with contextlib.closing(trainer.engine):
        trainer.method.start()
        batch = next(iter(trainer.data.train.epoch(0)))
        trainer.train_on(batch, 0)
        if trainer.ranks.rank == trainer.ranks.world_size - 1:
            *_, (_, state) = (each for each in trainer.engine.held("optimizer") if "momentum" in each[0])
            state.view(-1)[-1] = float("nan")
        return trainer._soundness.complaints(trainer.state_dict())


def held(trainer: Trainer) -> dict[str, Tensor]:
    """What a step may move, each as one vector."""
    engine = trainer.engine
    parts = {"optimizer": [tensor.reshape(-1) for _, tensor in engine.held("optimizer")]}
    with engine.full_parameters():  # at stage 3 which of them a rank holds whole changes
        parts["weights"] = [parameter.detach().clone().reshape(-1) for parameter in engine.model.parameters()]
    parts["buffers"] = [buffer.double().reshape(-1) for buffer in engine.model.buffers()]
    masks = [trainer.method.masks[name].reshape(-1) for name in trainer.method.masks.names]
    return {what: torch.cat(some).clone() if some else torch.empty(0) for what, some in {**parts, "masks": masks}.items()}
