"""What engines share that share a model out: masks act on what each rank holds, without collectives.

The optimizer of such an engine may step a copy of the weights from which the model's are written anew, so a mask has to reach
that copy, the optimizer's state and the model alike. A selection needs whole tensors, which :meth:`ShardedEngine.gathered`
brings to the ranks that decide.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.distributed import everyones, max_over_ranks, sum_at
from dist_sparse.engines import replicas
from dist_sparse.engines.base import Engine, Loss
from dist_sparse.engines.capabilities import Holding
from dist_sparse.engines.loss_scale import LossScale
from dist_sparse.engines.optimizer_state import parameter_state, set_parameter_state
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.shards import Piece, Shards
from dist_sparse.sparsity.masks import Masks


class ShardedEngine(Engine):
    """An engine that works on :class:`.shards.Shards`, which its constructor is to set, and scales the loss by itself."""

    _shards: Shards

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss: Loss, *, precision: Precision, accumulation: int = 1
    ) -> None:
        super().__init__(model, optimizer, loss, precision=precision, accumulation=accumulation)
        self._scale = LossScale(enabled=precision.scaled)
        self._overflowed = False
        self._whole: dict[str, Tensor] = {}
        self._whole_gradients: dict[str, Tensor] = {}

    @torch.no_grad()
    def _unscale(self) -> None:
        """At a step boundary, where the loss was scaled: on all ranks alike, whichever holds the infinite gradient."""
        gradients = [piece.values for name in self._parameters if (piece := self._shards.gradient(name)) is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / self._scale.value)
        bad = torch.stack([~each.isfinite().all() for each in gradients]).any() if gradients else torch.tensor(False)
        self._overflowed = bool(max_over_ranks(bad.to(self.precision.device, torch.int32)))

    @property
    def overflowed(self) -> bool:
        return self._overflowed

    @property
    def loss_scale(self) -> float:
        return self._scale.value

    def _end_step(self) -> None:
        """To be called as the last thing in :meth:`step`."""
        self._scale.update(overflowed=self._overflowed)
        self._overflowed = False

    def weight(self, name: str) -> Tensor:
        if name in self._whole:
            return self._whole[name]
        if "weights" not in self._shards.pieces_of:
            return self._parameters[name].detach()
        # Whoever takes values from here by mistake is to notice.
        return torch.full((), torch.nan, device=self.precision.device).expand(self._shards.shape(name))

    def grad(self, name: str) -> Tensor:
        if "gradients" in self._shards.pieces_of:
            return self._whole_gradients[name]
        grad = self._parameters[name].grad
        assert grad is not None, f"{name} has no gradient: not between the last backward of a step and the step"
        return grad

    @contextlib.contextmanager
    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> Iterator[None]:
        """As for every engine; at the end a gradient that was written to goes back to where its pieces lie."""
        assert not self._whole and not self._whole_gradients
        if "weights" in self._shards.pieces_of:
            self._whole = self._gather(weights, self._shards.master)
        if "gradients" in self._shards.pieces_of:
            self._whole_gradients = self._gather(gradients, self._shards.gradient)
        try:
            yield
        finally:
            for name, whole in self._whole_gradients.items():
                if (piece := self._shards.gradient(name)) is not None:
                    piece.copy_from(whole)
            self._whole, self._whole_gradients = {}, {}

    @torch.no_grad()
    def _gather(self, names: Iterable[str], piece_of: Callable[[str], Piece | None]) -> dict[str, Tensor]:
        """The parameter-shaped tensors that this rank asks for. Collective; each rank asks for its own."""
        wanted = everyones(list(names))
        gathered = {}
        for name in dict.fromkeys(name for ranks in wanted for name in ranks):
            shape = self._shards.shape(name)
            whole = torch.zeros(shape.numel(), device=self.precision.device)
            if (piece := piece_of(name)) is not None:
                whole[piece.span] = piece.values.to(whole.device)
            if sum_at(whole, [rank for rank, asked in enumerate(wanted) if name in asked]):
                gathered[name] = whole.view(shape)
        return gathered

    def mask_weights(self, masks: Masks) -> None:
        pieces = [(name, piece) for name in masks.names for piece in self._copies(name)]
        masks.multiply_parts_((name, piece.span, piece.values) for name, piece in pieces)
        masks.multiply_(self._whole)

    def _copies(self, name: str) -> list[Piece]:
        """What the model has of a weight, and the optimizer beside it."""
        master = self._own_master(name)
        return self._shards.forward(name) + ([] if master is None else [master])

    def _own_master(self, name: str) -> Piece | None:
        """What the optimizer steps, unless it is the model's own memory."""
        master = self._shards.master(name)
        if master is None or any(copy.values.data_ptr() == master.values.data_ptr() for copy in self._shards.forward(name)):
            return None
        return master

    def mask_gradients(self, masks: Masks) -> None:
        pieces = [(name, piece) for name in masks.names if (piece := self._shards.gradient(name)) is not None]
        masks.multiply_parts_((name, piece.span, piece.values) for name, piece in pieces)
        masks.multiply_(self._whole_gradients)

    def mask_optimizer_state(self, masks: Masks) -> None:
        pieces = [(name, piece) for name in masks.names for piece in self._shards.state(name).values() if piece is not None]
        masks.multiply_parts_((name, piece.span, piece.values) for name, piece in pieces)

    @torch.no_grad()
    def mask_model(self, masks: Masks) -> Callable[[], object]:
        pieces = [(name, piece) for name in masks.names for piece in self._shards.forward(name)]
        kept = [piece.values.clone() for _, piece in pieces]
        masks.multiply_parts_((name, piece.span, piece.values) for name, piece in pieces)

        def restore() -> None:
            torch._foreach_copy_([piece.values for _, piece in pieces], kept)
            self._shards.release()

        return restore

    def batch_norms(self, after: str) -> dict[str, Tensor]:
        """As for every engine; parameters that are in pieces are gathered."""
        found = dict(super().batch_norms(after))
        if "weights" in self._shards.pieces_of:
            with self.gathered(weights=[name for name in found if name in self._parameters]):
                found |= self._whole
        return found

    @torch.no_grad()
    def set_values(self, values: Mapping[str, Tensor]) -> None:
        buffers = dict(self.model.named_buffers())
        for name, value in values.items():
            if name in buffers:
                buffers[name].copy_(value)
            else:
                for piece in self._copies(name):
                    piece.copy_from(value)

    def optimizer_state(self, name: str) -> dict[str, Any]:
        if name not in self._parameters:
            return {}
        if "optimizer" not in self._shards.pieces_of:  # every rank has it whole, and by parameter
            return parameter_state(self._optimizer).get(self._parameters[name], {})
        pieces = self._shards.state(name)
        return {key: self._gather([name], lambda _, key=key: pieces[key])[name] for key in pieces}

    @torch.no_grad()
    def set_optimizer_state(self, name: str, state: dict[str, Any]) -> None:
        if "optimizer" not in self._shards.pieces_of:
            set_parameter_state(self._optimizer, self._parameters.get(name), state)
            return
        for key, piece in self._shards.state(name).items() if name in self._parameters else ():
            if piece is not None and key in state:
                piece.copy_from(state[key])
            elif piece is not None:
                piece.values.zero_()

    def held(self, what: Holding) -> Iterator[tuple[str, Tensor]]:
        for name in self._parameters:
            if what == "optimizer":
                pieces = {**self._shards.state(name), "master": self._own_master(name)}
            elif what == "gradients":
                pieces = {"gradient": self._shards.gradient(name)}
            else:
                pieces = dict(enumerate(self._shards.forward(name)))
            yield from ((f"{name} {key}", piece.values) for key, piece in pieces.items() if piece is not None)

    def replicas(self) -> dict[str, Any]:
        whole = {name: parameter for name, parameter in self._parameters.items() if self._shards.is_whole(name)}
        if "optimizer" in self._shards.pieces_of:
            optimizer = replicas.settings_of(self._optimizer)
        else:
            optimizer = replicas.of_optimizer(self._optimizer, parameter_state(self._optimizer), self._parameters)
        return {**whole, **optimizer, "loss scale": self._scale.state_dict()}

    def _weights(self) -> dict[str, Tensor]:
        """The plain model's, on the first rank; nothing on the others. Collective."""
        first = torch.distributed.get_rank() == 0
        tensors = self.model.state_dict(keep_vars=True)
        wholes: dict[int, Any] = {}
        if "weights" in self._shards.pieces_of:
            for name, parameter in self._parameters.items():  # one after the other
                wholes |= {id(parameter): whole.cpu() for whole in self._gather([name] * first, self._shards.master).values()}
        if not first:
            return {}
        whole = {name: wholes.get(id(tensor), tensor) for name, tensor in tensors.items()}
        return {name: tensor.detach().clone() for name, tensor in whole.items()}
