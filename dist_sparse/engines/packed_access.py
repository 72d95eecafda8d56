"""What engines share whose masked layers are packed: to the method their weights look whole, one at a time."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.engines.base import Engine, Loss
from dist_sparse.engines.capabilities import Holding
from dist_sparse.engines.optimizer_state import has_shape, replace_parameters
from dist_sparse.engines.whole_gradients import WholeGradients
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.entries import Entries, whole
from dist_sparse.sparsity.masks import Masks
from dist_sparse.sparsity.packed_tensor import whole as whole_of


class PackedAccess(Engine):
    """To be inherited from before an engine of whole parameters, whose own are then those of active weights."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, loss: Loss, *, weights: PackedWeights, **held: Any) -> None:
        self._packed = weights
        self._readable: frozenset[str] = frozenset()
        self._collected = WholeGradients(weights.layers, lambda: self.at_step_boundary)
        replace_parameters(optimizer, weights.replaced)
        weights.replaced.clear()  # or they would live on
        super().__init__(model, optimizer, loss, **held)

    @abstractmethod
    def _follow(self, masks: Masks) -> None:
        """Repack what is held of layers whose masks have moved: weights, gradients, the optimizer's state. Collective."""

    @abstractmethod
    def _packed_grad(self, name: str) -> Tensor:
        """The gradient as the engine's parameters have it."""

    def _listen(self, gradient_masks: Masks | None, wanted: Wanted | None) -> None:
        """To be called as the first thing in :meth:`forward_backward`."""
        if gradient_masks is None:
            self._collected.listen(wanted)
        else:
            self._collected.ignore()

    def step(self, *, skip: bool) -> None:
        self._collected.clear()
        super().step(skip=skip)

    @contextlib.contextmanager
    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> Iterator[None]:
        before, self._readable = self._readable, self._readable | set(weights)
        self._collected.share(list(gradients), self._parameters)
        try:
            yield
        finally:
            self._readable = before

    def weight(self, name: str) -> Tensor:
        layer, held = self._packed.layers.get(name), self._parameters[name].detach()
        if layer is None:
            return held
        return layer.expand(held) if name in self._readable else held.new_empty(()).expand(layer.shape)

    def grad(self, name: str) -> Tensor:
        if (held := self._collected.get(name)) is not None:
            return whole(held)
        gradient = self._packed_grad(name)
        return self._packed.layers[name].expand(gradient) if name in self._packed.layers else gradient

    def kept_grad(self, name: str) -> Tensor | Entries:
        held = self._collected.get(name)
        return held if isinstance(held, Entries) else super().kept_grad(name)

    def held_weight(self, name: str) -> Tensor | Entries:
        layer, held = self._packed.layers.get(name), self._parameters[name].detach()
        return held if layer is None else Entries(layer.shape, layer.positions, held.reshape(-1))

    def values(self, name: str) -> Tensor:
        return self._parameters[name].detach()

    def held(self, what: Holding) -> Iterator[tuple[str, Tensor]]:
        yield from super().held(what)
        if what == "gradients":
            yield from ((f"{name} of all weights", values) for name, values in self._collected.values())

    def mask_weights(self, masks: Masks) -> None:
        self._follow(masks)

    def mask_gradients(self, masks: Masks) -> None:
        self._follow(masks)

    def mask_optimizer_state(self, masks: Masks) -> None:
        self._follow(masks)

    def mask_copy(self, copy: nn.Module, masks: Masks) -> None:
        self._follow(masks)
        self._packed.move_copy(copy)

    def mask_model(self, masks: Masks) -> Callable[[], object]:
        raise AssertionError("methods that train dense weights are refused")

    def index_bytes(self) -> int:
        return sum(layer.index_bytes for layer in self._packed.layers.values())

    def plain_state(self, model: nn.Module) -> dict[str, Any]:
        return self._packed.hand_over(model.state_dict())

    def load_plain_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        model.load_state_dict(self._packed.take_over(state))

    def _take_masks(self, state: Mapping[str, Any]) -> None:
        """The masks of a checkpoint, by which all else is packed. Collective."""
        self._packed.masks.load_state_dict(state["method"])
        self._follow(self._packed.masks)

    def _expanded_state(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state of a parameter with what is packed of it whole."""
        if (layer := self._packed.layers.get(name)) is None:
            return state
        shape = self._parameters[name].shape
        return {key: layer.expand(value) if has_shape(value, shape) else value for key, value in state.items()}

    def _handed_over(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state of a parameter as a checkpoint holds it."""
        if (layer := self._packed.layers.get(name)) is None:
            return state
        shape = self._parameters[name].shape
        return {key: layer.hand_over(value) if has_shape(value, shape) else value for key, value in state.items()}

    def _taken_over(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        """The optimizer's state of a parameter from what a checkpoint holds; the inverse of :meth:`_handed_over`."""
        if (layer := self._packed.layers.get(name)) is None:
            return {key: whole_of(value) for key, value in state.items()}
        return {key: layer.pack(value) if has_shape(value, layer.shape) else value for key, value in state.items()}
