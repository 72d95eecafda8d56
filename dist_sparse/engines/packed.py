"""Data parallel training of packed weights: what is exchanged, stepped and held is of active weights alone."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.engines.base import Loss
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.optimizer_state import has_shape, parameter_state, replace_parameters
from dist_sparse.engines.packed_access import PackedAccess
from dist_sparse.engines.traffic import elements_per_step
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.masks import Masks

_log = logging.getLogger(__name__)


class PackedDDPEngine(PackedAccess, DDPEngine):
    """As DDP's, of a model whose masked layers are packed."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, loss: Loss, *, weights: PackedWeights, **held: Any) -> None:
        super().__init__(model, optimizer, loss, weights=weights, **{**held, "exchange": "dense"})

    def describe_exchange(self, gradient_masks: Masks | None) -> str:
        sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        whole = {**sizes, **{name: layer.shape.numel() for name, layer in self._packed.layers.items()}}
        active, total = elements_per_step(sizes, {}), elements_per_step(whole, {})
        dense = "" if gradient_masks is not None else "; those of all weights besides, to their layers' owners"
        what = f"of active weights, {active:,} of {total:,} ({active / total:.1%})"
        return f"gradients exchanged in a step{' (bf16)' if self._compress == 'bf16' else ''}: {what}{dense}"

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        self._listen(gradient_masks, wanted)
        return super().forward_backward(images, targets, None)

    def _packed_grad(self, name: str) -> Tensor:
        return self._gradient(name)

    def _follow(self, masks: Masks) -> None:
        assert masks is self._packed.masks, "one set of masks"
        everything, started = parameter_state(self._optimizer), time.perf_counter()
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for name, move in self._packed.moves():
            held = self._parameters[name]
            for key, value in everything.get(held, {}).items():
                if has_shape(value, held.shape):
                    everything[held][key] = move(value)
            gradient = None if held.grad is None else move(held.grad)
            if (parameter := self._packed.move(self.model, name, move)) is not held:
                parameter.grad, replaced[held] = gradient, parameter
            elif held.grad is not None and gradient is not None:
                held.grad.copy_(gradient)
        if replaced:
            replace_parameters(self._optimizer, replaced)
            self._parameters = dict(self.model.named_parameters())
            self._wrap()
            _log.info("DDP's buckets were built anew for %d layers: %.3f s", len(replaced), time.perf_counter() - started)

    def set_values(self, values: Mapping[str, Tensor]) -> None:
        super().set_values(self._packed.take_over(values))

    def optimizer_state(self, name: str) -> dict[str, Any]:
        return self._expanded_state(name, super().optimizer_state(name))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "optimizer": self._with_each_state(state["optimizer"], self._handed_over)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._take_masks(state)
        super().load_state_dict({**state, "optimizer": self._with_each_state(state["optimizer"], self._taken_over)})
