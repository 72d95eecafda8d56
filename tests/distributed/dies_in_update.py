"""The training command on ranks of which the last is killed in the middle of a mask update, while it repacks its weights."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any
from unittest import mock

from torch import nn

from dist_sparse import train
from dist_sparse.execution.packed_layer import Move
from dist_sparse.execution.packed_weights import PackedWeights

move = PackedWeights.move


def die_at_third_move(self: PackedWeights, model: nn.Module, moves: Mapping[str, Move]) -> Any:
    """The first update moves the network and its average. Of the second, masks and the optimizer's state have moved by then."""
    self.__dict__["moved"] = self.__dict__.get("moved", 0) + bool(moves)
    if self.__dict__["moved"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return move(self, model, moves)


def main(argv: Sequence[str], dies: bool) -> int:
    if not dies or os.environ["RANK"] != "1":
        return train.main(argv)
    with mock.patch.object(PackedWeights, "move", die_at_third_move):
        return train.main(argv)
