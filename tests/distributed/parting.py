"""Runs in which one rank's copy of something changes by a bit, or would."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from dist_sparse.engines.optimizer_state import parameter_state
from dist_sparse.trainer import Hook, Moment, Trainer
from tests.command import Outcome
from tests.distributed import cases


def flip(tensor: Tensor) -> None:
    """The last bit of the first entry."""
    bits = tensor.detach().view(-1)[:1].view(torch.int32)
    bits.bitwise_xor_(1)


def copy_of(trainer: Trainer, what: str, name: str) -> Tensor:
    parameters = dict(trainer.engine.model.named_parameters())
    if what == "averaged":
        assert trainer.ema is not None
        return dict(trainer.ema.module.named_parameters())[name]
    optimizer: Any = getattr(trainer.engine, "_optimizer", None)
    return parameters[name] if what == "weight" else parameter_state(optimizer)[parameters[name]][what]


def one_bit_flipped(what: str, name: str, *, rank: int, step: int) -> Hook:
    """On one rank, after a step and before anything is made of it; a buffer as soon as it has been synchronised."""

    def hook(moment: Moment, trainer: Trainer) -> None:
        if moment is not Moment.STEPPED or dist.get_rank() != rank or trainer.progress.step != step:
            return
        if what == "buffer":
            synchronise = trainer.engine.synchronise_buffers
            flipped = dict(trainer.engine.model.named_buffers())[name]
            trainer.engine.synchronise_buffers = lambda: (synchronise(), flip(flipped))  # type: ignore[method-assign]
        else:
            flip(copy_of(trainer, what, name))

    return hook


def command(values: dict[str, Any], what: str, name: str, step: int) -> tuple[int, list[str]]:
    """The whole training command: its exit code, and the errors that it tells."""
    outcome = cases.command(values, hooks=[one_bit_flipped(what, name, rank=dist.get_world_size() - 1, step=step)])
    return outcome.code, outcome.errors


def uncompiled(values: dict[str, Any], interrupt_after: int | None = None) -> tuple[Outcome, list[float]]:
    """The command without compiling an optimizer's parts, which takes a minute; and the last weights of this rank, in short."""
    weights: list[float] = []

    def look(moment: Moment, trainer: Trainer) -> None:
        if moment is Moment.STEP_ENDED:
            weights[:] = [float(each.double().sum()) for each in trainer.engine.model.parameters()]

    with mock.patch("timm.optim.kron.has_dynamo", False):
        return cases.command(values, interrupt_after=interrupt_after, hooks=[look]), weights


def main(argv: Sequence[str]) -> int:
    """The command, in which the copies of the last layer part after the fourth step."""
    from dist_sparse import train

    return train.main(argv, hooks=[one_bit_flipped("weight", "fc.weight", rank=1, step=4)])
