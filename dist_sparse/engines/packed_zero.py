"""Packed weights under DeepSpeed's ZeRO, stages 0 to 2, where layers keep their numbers of active weights.

ZeRO's flat vectors, which are sharded over ranks, have a place for every active weight. A mask that moves permutes the
entries of one layer: its weights are whole on every rank; its moments are gathered for it, a layer at a time, and each rank
takes its part.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_sparse.distributed import world_size
from dist_sparse.engines.capabilities import Holding
from dist_sparse.engines.deepspeed import DeepSpeedEngine
from dist_sparse.engines.packed_access import PackedAccess
from dist_sparse.engines.shards import Piece
from dist_sparse.execution.packed_layer import Move
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.masks import Masks


class PackedDeepSpeedEngine(PackedAccess, DeepSpeedEngine):
    """As DeepSpeed's, of a model whose masked layers are packed."""

    _has_gradients = False
    """The last backward of a step is made, and the step is not."""

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        self._listen(gradient_masks, wanted)
        loss = super().forward_backward(images, targets)
        self._has_gradients = self.at_step_boundary
        return loss

    def step(self, *, skip: bool) -> None:
        super().step(skip=skip)
        self._has_gradients = False

    @contextlib.contextmanager
    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> Iterator[None]:
        gradients = list(gradients)
        with PackedAccess.gathered(self, weights=weights, gradients=gradients):
            in_pieces = [name for name in gradients if name not in self._collected]
            with DeepSpeedEngine.gathered(self, gradients=in_pieces):
                yield

    def _packed_grad(self, name: str) -> Tensor:
        return DeepSpeedEngine.grad(self, name)

    @torch.no_grad()
    def _follow(self, masks: Masks) -> None:
        assert masks is self._packed.masks, "one set of masks"
        for name, move in self._packed.moves():
            parameter = self._parameters[name]
            assert len(move.source) == parameter.numel(), f"{name} has another number of active weights: refused"
            self._packed.move(self.model, name, move)
            if (master := self._shards.master(name)) is not None:
                master.copy_from(parameter.detach())
            self._move(name, move, list(self._shards.state(name).values()), "optimizer")
            if self._has_gradients:
                self._move(name, move, [self._shards.gradient(name)], "gradients")
            if (gradient := self._whole_gradients.get(name)) is not None:
                gradient.copy_(move(gradient))

    def _move(self, name: str, move: Move, pieces: Sequence[Piece | None], what: Holding) -> None:
        """Move what lies beside a layer's weights, entry by entry, in the pieces that ranks have. Collective."""
        if not pieces:
            return
        whole = torch.zeros(len(pieces), self._parameters[name].numel(), device=self.precision.device)
        for row, piece in zip(whole, pieces, strict=True):
            if piece is not None:
                row[piece.span] = piece.values.to(row)
        if world_size() > 1 and what in self._shards.pieces_of:
            dist.all_reduce(whole)
        for row, piece in zip(whole, pieces, strict=True):
            if piece is not None:
                piece.copy_from(move(row))

    def set_values(self, values: Mapping[str, Tensor]) -> None:
        super().set_values(self._packed.take_over(values))

    def optimizer_state(self, name: str) -> dict[str, Any]:
        return self._expanded_state(name, super().optimizer_state(name))

    def _weights(self) -> dict[str, Any]:
        return self._packed.hand_over(super()._weights())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._take_masks(state)
        super().load_state_dict(state)
