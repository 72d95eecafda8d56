"""Data parallel training with torch's DistributedDataParallel, on one process or many."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dist_sparse.config import Config
from dist_sparse.config.engine import EngineConfig
from dist_sparse.distributed import world_size
from dist_sparse.engines import replicas
from dist_sparse.engines.base import Engine, Loss
from dist_sparse.engines.buckets import settle_buckets
from dist_sparse.engines.capabilities import Capabilities, Holding
from dist_sparse.engines.exchange import Choice, build_exchange, describe
from dist_sparse.engines.optimizer_state import has_shape, load_optimizer, parameter_state, set_parameter_state, with_each_state
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.traffic import Compress
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.masks import Masks

_Change = Callable[[str, dict[str, Any]], dict[str, Any]]
"""From a parameter's name and its state to another state."""


class DDPEngine(Engine):
    """Replicates the model; gradients are averaged over ranks while the last micro-batch of a step runs backward."""

    name = "ddp"

    @classmethod
    def capabilities(cls, config: EngineConfig) -> Capabilities:
        return Capabilities(cause="engine.name=ddp", packs_gradients=True, packs_weights=True, loses_units=True)

    @classmethod
    def build(
        cls,
        config: Config,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        precision: Precision,
        weights: PackedWeights | None = None,
    ) -> "DDPEngine":
        held: dict[str, Any] = {
            "precision": precision,
            "accumulation": config.train.accumulation,
            "clip_norm": config.train.clip_norm,
            "compile": config.train.compile,
            "exchange": config.engine.exchange,
            "compress": config.engine.compress,
        }
        if weights is not None:
            held["weights"] = weights
        return cls(model, optimizer, loss, **held)

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        *,
        precision: Precision,
        accumulation: int = 1,
        clip_norm: float | None = None,
        compile: bool = False,
        exchange: Choice = "auto",
        compress: Compress = "none",
    ) -> None:
        super().__init__(model, optimizer, loss, precision=precision, accumulation=accumulation)
        self._clip_norm = clip_norm
        self._choice: Choice = exchange
        self._compress: Compress = compress
        self._scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.scaled)
        self._compile = compile
        self._wrap()

    def _wrap(self) -> None:
        """Let DDP take the model, with the parameters that it has now. Collective."""
        self.exchange = build_exchange(self.model, self._choice, self._compress)
        device_ids = [self.precision.device] if self.precision.device.type == "cuda" else None
        self._ddp = DistributedDataParallel(self.model, device_ids=device_ids, gradient_as_bucket_view=True)
        if self.exchange is not None:
            self._ddp.register_comm_hook(None, self.exchange.average)
        if world_size() > 1:
            settle_buckets(self._ddp)
        self._forward = torch.compile(self._ddp) if self._compile else self._ddp

    def describe_exchange(self, gradient_masks: Masks | None) -> str:
        return describe(self.model, self._choice, self._compress, gradient_masks)

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        self._count_micro_batch()
        if self.exchange is not None:
            self.exchange.begin(gradient_masks)
        with contextlib.nullcontext() if self.at_step_boundary else self._ddp.no_sync():
            with self.precision.autocast():
                loss = self._loss(self._forward(self.precision.place_images(images)), targets)
            self._scaler.scale(loss / self._accumulation).backward()
        if self.at_step_boundary:
            self._scaler.unscale_(self._optimizer)
        return loss.detach()

    @property
    def overflowed(self) -> bool:
        if not self.precision.scaled:
            return False
        # The scaler tells of an overflow only after its step, when it is too late to leave the masks alone.
        return any(bool(found) for found in self._scaler._found_inf_per_device(self._optimizer).values())

    @property
    def loss_scale(self) -> float:
        return self._scaler.get_scale()

    def step(self, *, skip: bool) -> None:
        if not skip:
            if self._clip_norm is not None:
                nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def weight(self, name: str) -> Tensor:
        return self._parameters[name].detach()

    def grad(self, name: str) -> Tensor:
        return self._gradient(name)

    def _gradient(self, name: str) -> Tensor:
        """As it is held."""
        grad = self._parameters[name].grad
        assert grad is not None, f"{name} has no gradient: not between the last backward of a step and the step"
        return grad

    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> AbstractContextManager[None]:
        return contextlib.nullcontext()  # all are whole at all times

    def mask_weights(self, masks: Masks) -> None:
        masks.multiply_({name: self.values(name) for name in masks.names})

    def mask_gradients(self, masks: Masks) -> None:
        masks.multiply_({name: self._gradient(name) for name in masks.names})

    def mask_optimizer_state(self, masks: Masks) -> None:
        everything = parameter_state(self._optimizer)
        states = [(name, everything.get(self._parameters[name], {})) for name in masks.names]
        for key in {key for _, state in states for key in state}:
            shapes = {name: self._parameters[name].shape for name, _ in states}
            masks.multiply_({name: state[key] for name, state in states if has_shape(state.get(key), shapes[name])})

    def mask_model(self, masks: Masks) -> Callable[[], object]:
        weights = {name: self.weight(name) for name in masks.names}
        kept = [weight.clone() for weight in weights.values()]
        masks.multiply_(weights)
        return lambda: torch._foreach_copy_(list(weights.values()), kept)

    def set_values(self, values: Mapping[str, Tensor]) -> None:
        buffers = dict(self.model.named_buffers())
        for name, value in values.items():
            (buffers[name] if name in buffers else self._parameters[name].detach()).copy_(value)

    def optimizer_state(self, name: str) -> dict[str, Any]:
        return parameter_state(self._optimizer).get(self._parameters[name], {}) if name in self._parameters else {}

    def set_optimizer_state(self, name: str, state: dict[str, Any]) -> None:
        set_parameter_state(self._optimizer, self._parameters.get(name), state)

    def held(self, what: Holding) -> Iterator[tuple[str, Tensor]]:
        everything = parameter_state(self._optimizer) if what == "optimizer" else {}
        for name, parameter in self._parameters.items():
            if what == "weights":
                yield name, parameter.detach()
            elif what == "gradients" and parameter.grad is not None:
                yield name, parameter.grad
            for key, value in everything.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"{name} {key}", value

    def replicas(self) -> dict[str, Any]:
        return {
            **self._parameters,
            **replicas.of_optimizer(self._optimizer, parameter_state(self._optimizer), self._parameters),
            "loss scale": self._scaler.state_dict(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "state_dict": self.plain_state(self.model),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def _with_each_state(self, saved: Mapping[str, Any], change: _Change) -> dict[str, Any]:
        """The optimizer's saved state with that of each parameter changed."""
        return with_each_state(self._optimizer, self._parameters, saved, change)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.load_plain_state(self.model, state["state_dict"])
        load_optimizer(self._optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
