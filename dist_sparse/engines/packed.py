"""Data parallel training of packed weights: what is exchanged, stepped and held is of active weights alone.

The gradient of a whole weight exists on the steps whose method asks for all gradients, and then within the backward of its
layer only: there it is averaged over ranks, and the layer's owner, who selects by it, keeps the entries that it may want until
the step is made. (Over several micro-batches, and where a method does not know beforehand what it wants, whole ones are kept.)
"""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.distributed import max_over_ranks, world_size
from dist_sparse.engines.base import Loss
from dist_sparse.engines.capabilities import Holding
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.optimizer_state import has_shape, parameter_state, replace_parameters
from dist_sparse.engines.traffic import elements_per_step
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.agreement import assign_owners
from dist_sparse.sparsity.entries import Entries, values_of, whole
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.packed_tensor import whole as whole_of

_log = logging.getLogger(__name__)


class PackedDDPEngine(DDPEngine):
    """As DDP's, of a model whose masked layers are packed. To the method its weights look whole, one at a time."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, loss: Loss, *, weights: PackedWeights, **held: Any) -> None:
        self._weights = weights
        self._owners = assign_owners({name: layer.shape.numel() for name, layer in weights.layers.items()}, world_size())
        self._readable: frozenset[str] = frozenset()
        self._collected: dict[str, Tensor | Entries] = {}
        """Gradients of whole weights: of this rank's layers, or of all while micro-batches are still to come."""
        replace_parameters(optimizer, weights.replaced)
        weights.replaced.clear()  # or they would live on
        super().__init__(model, optimizer, loss, **{**held, "exchange": "dense"})

    def describe_exchange(self, gradient_masks: Masks | None) -> str:
        sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        whole = {**sizes, **{name: layer.shape.numel() for name, layer in self._weights.layers.items()}}
        active, total = elements_per_step(sizes, {}), elements_per_step(whole, {})
        dense = "" if gradient_masks is not None else "; those of all weights besides, to their layers' owners"
        what = f"of active weights, {active:,} of {total:,} ({active / total:.1%})"
        return f"gradients exchanged in a step{' (bf16)' if self._compress == 'bf16' else ''}: {what}{dense}"

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        collect = functools.partial(self._collect, wanted) if gradient_masks is None else None
        for layer in self._weights.layers.values():
            layer.collect = collect
        return super().forward_backward(images, targets, None)

    def _collect(self, wanted: Wanted | None, name: str, gradient: Tensor) -> None:
        """Within the backward of a layer, which is at the same place on all ranks."""
        if (before := self._collected.pop(name, None)) is not None:
            gradient = whole(before).add_(gradient)
        elif wanted is None or world_size() > 1 or not self.at_step_boundary:
            gradient = gradient.clone(memory_format=torch.contiguous_format)
        if self.at_step_boundary:
            if world_size() > 1:
                dist.reduce(gradient.div_(world_size()), self._owners[name])
                if self._owners[name] != dist.get_rank():
                    return
            if wanted is not None:
                self._collected[name] = Entries.of(gradient, wanted(name, gradient))
                return
        self._collected[name] = gradient

    def step(self, *, skip: bool) -> None:
        self._collected.clear()
        super().step(skip=skip)

    @contextlib.contextmanager
    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> Iterator[None]:
        before, self._readable = self._readable, self._readable | set(weights)
        self._share_collected(set(gradients))
        try:
            yield
        finally:
            self._readable = before

    def _share_collected(self, wanted: set[str]) -> None:
        """Give every rank the gradients that their owners have, if some rank asks for others than its own. Collective."""
        if world_size() == 1:
            return
        others = [name for name in wanted if name not in self._collected]
        device = self.precision.device
        asked = max_over_ranks(torch.tensor([len(others), len(self._collected)], dtype=torch.int32, device=device))
        if not asked.all():
            return
        for name, owner in self._owners.items():
            held = self._collected.get(name)
            gradient = self._parameters[name].new_empty(self._weights.layers[name].shape) if held is None else whole(held)
            dist.broadcast(gradient, owner)
            self._collected[name] = gradient

    def weight(self, name: str) -> Tensor:
        layer, held = self._weights.layers.get(name), self._parameters[name].detach()
        if layer is None:
            return held
        return layer.expand(held) if name in self._readable else held.new_empty(()).expand(layer.shape)

    def grad(self, name: str) -> Tensor:
        if name in self._collected:
            return whole(self._collected[name])
        gradient = super().grad(name)
        return self._weights.layers[name].expand(gradient) if name in self._weights.layers else gradient

    def kept_grad(self, name: str) -> Tensor | Entries:
        held = self._collected.get(name)
        return held if isinstance(held, Entries) else super().kept_grad(name)

    def held_weight(self, name: str) -> Tensor | Entries:
        layer, held = self._weights.layers.get(name), self._parameters[name].detach()
        return held if layer is None else Entries(layer.shape, layer.positions, held.reshape(-1))

    def values(self, name: str) -> Tensor:
        return self._parameters[name].detach()

    def mask_weights(self, masks: Masks) -> None:
        self._follow(masks)

    def mask_gradients(self, masks: Masks) -> None:
        self._follow(masks)

    def mask_optimizer_state(self, masks: Masks) -> None:
        self._follow(masks)

    def mask_copy(self, copy: nn.Module, masks: Masks) -> None:
        self._follow(masks)
        self._weights.move_copy(copy)

    def mask_model(self, masks: Masks) -> Callable[[], object]:
        raise AssertionError("methods that train dense weights are refused")

    def _follow(self, masks: Masks) -> None:
        """Repack what is held of layers whose masks have moved: weights, gradients, the optimizer's state."""
        assert masks is self._weights.masks, "one set of masks"
        everything, started = parameter_state(self._optimizer), time.perf_counter()
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for name, move in self._weights.moves():
            held = self._parameters[name]
            for key, value in everything.get(held, {}).items():
                if has_shape(value, held.shape):
                    everything[held][key] = move(value)
            gradient = None if held.grad is None else move(held.grad)
            if (parameter := self._weights.move(self.model, name, move)) is not held:
                parameter.grad, replaced[held] = gradient, parameter
            elif held.grad is not None and gradient is not None:
                held.grad.copy_(gradient)
        if replaced:
            replace_parameters(self._optimizer, replaced)
            self._parameters = dict(self.model.named_parameters())
            self._wrap()
            _log.info("DDP's buckets were built anew for %d layers: %.3f s", len(replaced), time.perf_counter() - started)

    def set_values(self, values: Mapping[str, Tensor]) -> None:
        super().set_values(self._weights.take_over(values))

    def optimizer_state(self, name: str) -> dict[str, Any]:
        return self._expanded_state(name, super().optimizer_state(name))

    def held(self, what: Holding) -> Iterator[tuple[str, Tensor]]:
        yield from super().held(what)
        if what == "gradients":
            yield from ((f"{name} of all weights", values_of(gradient)) for name, gradient in self._collected.items())

    def index_bytes(self) -> int:
        return sum(layer.index_bytes for layer in self._weights.layers.values())

    def plain_state(self, model: nn.Module) -> dict[str, Any]:
        return self._weights.hand_over(model.state_dict())

    def load_plain_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        model.load_state_dict(self._weights.take_over(state))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "optimizer": self._with_each_state(state["optimizer"], self._handed_over)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights.masks.load_state_dict(state["method"])  # by which all else is packed
        self._follow(self._weights.masks)
        super().load_state_dict({**state, "optimizer": self._with_each_state(state["optimizer"], self._taken_over)})

    def _expanded_state(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        if (layer := self._weights.layers.get(name)) is None:
            return state
        shape = self._parameters[name].shape
        return {key: layer.expand(value) if has_shape(value, shape) else value for key, value in state.items()}

    def _handed_over(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        if (layer := self._weights.layers.get(name)) is None:
            return state
        shape = self._parameters[name].shape
        return {key: layer.hand_over(value) if has_shape(value, shape) else value for key, value in state.items()}

    def _taken_over(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        if (layer := self._weights.layers.get(name)) is None:
            return {key: whole_of(value) for key, value in state.items()}
        return {key: layer.pack(value) if has_shape(value, layer.shape) else value for key, value in state.items()}
