"""Training with DeepSpeed's ZeRO, stages 0 to 3: masks act on what each rank holds, without collectives.

ZeRO steps a flat fp32 master copy and writes the model's weights anew from it, so a mask has to reach the master, the
optimizer's state and the model alike. A selection needs whole tensors, which :meth:`DeepSpeedEngine.gathered` brings to the
ranks that decide.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_sparse.distributed import AgreedError, copy_first_rank, everyones, max_over_ranks, sum_at
from dist_sparse.engines import replicas, zero_files
from dist_sparse.engines.base import Holding, Loss
from dist_sparse.engines.loss_scale import LossScale
from dist_sparse.engines.optimizer_state import parameter_state, set_parameter_state
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.zero_process import borrowed_process
from dist_sparse.engines.zero_settings import reason_of
from dist_sparse.engines.zero_shards import CutShards, FlatShards, Piece, Shards, WholeShards
from dist_sparse.sparsity.masks import Masks

_SHOWN = -1
"""In place of a module's id: as long as it is among those that use a parameter, no module's own hook releases it."""


class DeepSpeedEngine:
    """One model under ZeRO. Gradients are averaged over ranks when the last micro-batch of a step has run backward."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        *,
        precision: Precision,
        accumulation: int,
        settings: dict[str, Any],
    ) -> None:
        """``model`` is already placed by ``precision``, and ``optimizer`` holds its parameters. Collective.

        Args:
            settings: DeepSpeed's configuration, complete (see :mod:`.zero_settings`).
        """
        self.model, self.precision = model, precision
        self._optimizer, self._loss = optimizer, loss
        self._accumulation, self._micro_batches = accumulation, 0
        self._scale = LossScale(enabled=precision.scaled)
        self._overflowed = self._skipping = False
        self._stage: int = settings["zero_optimization"]["stage"]
        self._parameters = dict(model.named_parameters())
        self._whole: dict[str, Tensor] = {}
        self._whole_gradients: dict[str, Tensor] = {}
        self._gate_steps()
        with borrowed_process(precision.device.type) as borrowed:
            self._deepspeed = _initialize(model, optimizer, settings)
            self._borrowed = borrowed.pop_all()
        kind = (WholeShards, FlatShards, FlatShards, CutShards)[self._stage]
        self._shards: Shards = kind(self._parameters, self._deepspeed.optimizer)

    def _gate_steps(self) -> None:
        """Let :meth:`step` hold back the optimizer alone, while DeepSpeed keeps its books as after any step."""
        step: Callable[..., Any] = self._optimizer.step

        def gated(*arguments: Any, **keywords: Any) -> Any:
            return None if self._skipping else step(*arguments, **keywords)

        setattr(self._optimizer, "step", gated)  # noqa: B010

    def close(self) -> None:
        self._borrowed.close()

    @property
    def at_step_boundary(self) -> bool:
        return self._micro_batches == self._accumulation

    @property
    def overflowed(self) -> bool:
        return self._overflowed

    @property
    def learning_rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def forward_backward(self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None) -> Tensor:
        del gradient_masks  # whole gradients are exchanged, whatever the step uses of them
        self._micro_batches = self._micro_batches % self._accumulation + 1
        logits = self._deepspeed(self.precision.place_images(images))
        with self.precision.autocast():
            loss = self._loss(logits, targets)
        self._deepspeed.backward(loss * self._scale.value if self._scale.enabled else loss)
        if not self.at_step_boundary:
            self._deepspeed.step()  # counts the micro-batch
        elif self._scale.enabled:
            self._unscale()
        return loss.detach()

    @torch.no_grad()
    def _unscale(self) -> None:
        """On all ranks alike, unlike DeepSpeed's own scaler under autocast, which asks each rank about its part alone."""
        gradients = [piece.values for name in self._parameters if (piece := self._shards.gradient(name)) is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / self._scale.value)
        bad = torch.stack([~each.isfinite().all() for each in gradients]).any() if gradients else torch.tensor(False)
        self._overflowed = bool(max_over_ranks(bad.to(self.precision.device, torch.int32)))

    def step(self, *, skip: bool) -> None:
        self._shards.refresh_norms()
        self._skipping = skip
        self._deepspeed.step()
        self._skipping = False
        self._scale.update(overflowed=self._overflowed)
        self._overflowed = False

    def held(self, what: Holding) -> Iterator[tuple[str, Tensor]]:
        for name in self._parameters:
            if what == "optimizer":
                pieces = dict(self._shards.state(name))
            elif what == "gradients":
                pieces = {"gradient": self._shards.gradient(name)}
            else:
                pieces = dict(enumerate(self._copies(name)))
            yield from ((f"{name} {key}", piece.values) for key, piece in pieces.items() if piece is not None)

    def synchronise_buffers(self) -> None:
        copy_first_rank(self.model.buffers())

    def replicas(self) -> dict[str, Any]:
        whole = {name: parameter for name, parameter in self._parameters.items() if self._shards.is_whole(name)}
        if self._stage == 0:
            optimizer = replicas.of_optimizer(self._optimizer, parameter_state(self._optimizer), self._parameters)
        else:  # its state is shared out
            optimizer = replicas.settings_of(self._optimizer)
        return {**whole, **optimizer, "loss scale": self._scale.state_dict()}

    def weight(self, name: str) -> Tensor:
        if name in self._whole:
            return self._whole[name]
        if self._stage < 3:
            return self._parameters[name].detach()
        # Whoever takes values from here by mistake is to notice.
        return torch.full((), torch.nan, device=self.precision.device).expand(self._shards.shape(name))

    def grad(self, name: str) -> Tensor:
        if self._stage == 0:
            grad = self._parameters[name].grad
            assert grad is not None, f"{name} has no gradient: not between the last backward of a step and the step"
            return grad
        return self._whole_gradients[name]

    @contextlib.contextmanager
    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> Iterator[None]:
        assert not self._whole and not self._whole_gradients
        if self._stage == 3:
            self._whole = self._gather(weights, self._shards.master)
        if self._stage > 0:
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
        """Each once: at stage 3 in fp32, master and model are one memory."""
        copies, master = self._shards.forward(name), self._shards.master(name)
        if master is not None and all(copy.values.data_ptr() != master.values.data_ptr() for copy in copies):
            copies.append(master)
        return copies

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
            if isinstance(self._shards, CutShards):
                self._shards.release()

        return restore

    def batch_norms(self, after: str) -> dict[str, Tensor]:
        modules = dict(self.model.named_modules())
        later = list(modules)[list(modules).index(after.rpartition(".")[0]) :]
        found = {
            f"{module}.{name}": tensor.detach()
            for module in later
            if isinstance(modules[module], _BatchNorm)
            for name, tensor in modules[module].state_dict(keep_vars=True).items()
        }
        if self._stage == 3:
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
        if self._stage == 0:  # every rank has it whole, and by parameter
            return parameter_state(self._optimizer).get(self._parameters[name], {})
        pieces = self._shards.state(name)
        return {key: self._gather([name], lambda _, key=key: pieces[key])[name] for key in pieces}

    @torch.no_grad()
    def set_optimizer_state(self, name: str, state: dict[str, Any]) -> None:
        if self._stage == 0:
            set_parameter_state(self._optimizer, self._parameters.get(name), state)
            return
        for key, piece in self._shards.state(name).items() if name in self._parameters else ():
            if piece is not None and key in state:
                piece.copy_from(state[key])
            elif piece is not None:
                piece.values.zero_()

    @contextlib.contextmanager
    def full_parameters(self) -> Iterator[None]:
        if self._stage < 3:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        parameters: list[Any] = list(self._parameters.values())
        with GatheredParameters(parameters):
            for parameter in parameters:
                parameter.ds_active_sub_modules.add(_SHOWN)
            try:
                yield
            finally:
                for parameter in parameters:
                    parameter.ds_active_sub_modules.discard(_SHOWN)

    def state_dict(self) -> dict[str, Any]:
        groups = [{"lr": float(group["lr"])} for group in self._optimizer.param_groups]
        return {
            "state_dict": self._weights(),
            "optimizer": {"param_groups": groups},  # its state is among the shards
            "scaler": self._scale.state_dict(),
        }

    def _weights(self) -> dict[str, Tensor]:
        """The plain model's, on the first rank; nothing on the others. Collective."""
        first = torch.distributed.get_rank() == 0
        tensors = self.model.state_dict(keep_vars=True)
        wholes: dict[int, Any] = {}
        if self._stage == 3:
            for name, parameter in self._parameters.items():  # one after the other
                wholes |= {id(parameter): whole.cpu() for whole in self._gather([name] * first, self._shards.master).values()}
        if not first:
            return {}
        whole = {name: wholes.get(id(tensor), tensor) for name, tensor in tensors.items()}
        return {name: tensor.detach().clone() for name, tensor in whole.items()}

    def save_shards(self, folder: Path) -> dict[str, Any]:
        return zero_files.save(self._deepspeed, folder)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        zero_files.load(self._deepspeed, Path(state["shards"]))
        self._scale.load_state_dict(state["scaler"])


def _initialize(model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine on the present process group. It changes the process: see :mod:`.zero_process`."""
    import deepspeed

    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    try:
        deepspeed.DeepSpeedConfig(copy.deepcopy(settings))
    except ValueError as error:  # of a value in the user's file; the same on all ranks
        raise AgreedError(f"engine.deepspeed_config: {reason_of(error)}") from error
    engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)[0]
    # Each rank's scaler would look at its own part only, and skip steps alone: ours stands in for it.
    engine.torch_autocast_z0_gradscaler = None
    if hasattr(engine.optimizer, "torch_autocast_gradscaler"):
        engine.optimizer.torch_autocast_gradscaler = None
    return engine
