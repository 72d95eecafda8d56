"""Data parallel training of a network that loses its dead units: what is computed, exchanged, stepped and held becomes smaller.

To the method and in checkpoints it stays the whole network: what units are gone from are zeros there, masks keep the
original's shapes, and what computes is cut out of them. With zeros in its place the whole network has the same outputs, so
that a checkpoint can be evaluated, exported and gone on from with or without narrowing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Size, Tensor, nn

from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.optimizer_state import has_shape, parameter_state, replace_parameters
from dist_sparse.shrinking.narrow import lie_as, narrow, widen
from dist_sparse.shrinking.plan import Plan
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.masks import Masks


class NarrowingDDPEngine(DDPEngine):
    """As DDP's, of a model that :meth:`narrow` makes narrower between two steps."""

    def __init__(self, model: nn.Module, *args: Any, **held: Any) -> None:
        self.plan = Plan()
        """What the model keeps of the original; of a whole one it names nothing."""
        self._shapes = {name: tensor.shape for name, tensor in _tensors(model).items()}
        self._last: tuple[Masks, int, Masks] | None = None
        super().__init__(model, *args, **held)

    def narrow(self, plan: Plan, changed: Mapping[str, Tensor], copies: Mapping[nn.Module, Mapping[str, Tensor]]) -> None:
        """Keep of the model, of its optimizer's state and of copies of the model what a plan says. Collective.

        Args:
            changed: tensors of the original's shapes that take the place of the model's own.
            copies: such as moving averages, each with what changes in it.

        Raises:
            ValueError: the plan is of another network.
        """
        if (misfit := plan.misfit(self._shapes)) is not None:
            raise ValueError(f"what is kept of {misfit} does not fit the model")
        before, held = self.plan, dict(self._parameters)
        for copy, own in copies.items():
            narrow(copy, plan, own, self._plan_of(copy))
        narrow(self.model, plan, changed, before)
        self.plan, self._last = plan, None
        self._parameters = dict(self.model.named_parameters())
        replaced = {held[name]: parameter for name, parameter in self._parameters.items() if parameter is not held[name]}
        everything = parameter_state(self._optimizer)
        for name, parameter in held.items():
            if parameter in replaced and parameter in everything:
                whole = _changed(everything[parameter], parameter.shape, lambda value: before.expand(name, value))  # noqa: B023
                shape, like = self._shapes[name], self._parameters[name]
                everything[parameter] = _changed(whole, shape, lambda value: lie_as(like, plan.cut(name, value)))  # noqa: B023
        replace_parameters(self._optimizer, replaced)
        self._wrap()

    def whole(self, model: nn.Module) -> nn.Module:
        """A copy of the model, or of a copy of it, with the original's shapes."""
        return widen(model, self._plan_of(model))

    def _plan_of(self, model: nn.Module) -> Plan:
        """A copy that was made of the whole model, before a checkpoint is loaded, is whole."""
        tensors = _tensors(model)
        whole = all(tensors[name].shape == self._shapes[name] for name in (*self.plan.kept, *self.plan.columns))
        return Plan() if whole else self.plan

    def _cut(self, masks: Masks) -> Masks:
        """Masks of what the model has, from those of the original."""
        if not self.plan.kept:
            return masks
        if self._last is None or self._last[0] is not masks or self._last[1] != masks.version:
            made = Masks({name: self._parameters[name].detach() for name in masks.names})
            made.replace({name: self.plan.cut(name, masks[name]) for name in masks.names})
            masks.let_go()
            self._last = masks, masks.version, made
        return self._last[2]

    def describe_exchange(self, gradient_masks: Masks | None) -> str:
        return super().describe_exchange(None if gradient_masks is None else self._cut(gradient_masks))

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        return super().forward_backward(images, targets, None if gradient_masks is None else self._cut(gradient_masks))

    def weight(self, name: str) -> Tensor:
        return self.plan.expand(name, super().weight(name))

    def grad(self, name: str) -> Tensor:
        return self.plan.expand(name, super().grad(name))

    def values(self, name: str) -> Tensor:
        return super().weight(name)

    def mask_weights(self, masks: Masks) -> None:
        super().mask_weights(self._cut(masks))

    def mask_gradients(self, masks: Masks) -> None:
        super().mask_gradients(self._cut(masks))

    def mask_optimizer_state(self, masks: Masks) -> None:
        super().mask_optimizer_state(self._cut(masks))

    def mask_copy(self, copy: nn.Module, masks: Masks) -> None:
        super().mask_copy(copy, masks if self._plan_of(copy) is not self.plan else self._cut(masks))

    def mask_model(self, masks: Masks) -> Callable[[], object]:
        raise AssertionError("methods that train dense weights are refused")

    def index_bytes(self) -> int:
        return 0 if self._last is None else self._last[2].held_bytes()

    def replicas(self) -> dict[str, Any]:
        masks = {} if self._last is None else self._last[2].digests(in_memory=True)
        return {**super().replicas(), "masks of what is left": masks}

    def optimizer_state(self, name: str) -> dict[str, Any]:
        return self._expanded(name, super().optimizer_state(name))

    def plain_state(self, model: nn.Module) -> dict[str, Any]:
        state = model.state_dict()
        for name, value in state.items():
            # A variance of 0 would be divided by.
            state[name] = self.plan.expand(name, value, fill=float(name.endswith("running_var")))
        return state

    def load_plain_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        if self._plan_of(model) is not self.plan:
            narrow(model, self.plan, {})
        super().load_plain_state(model, {name: self.plan.cut(name, value) for name, value in state.items()})

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        optimizer = self._with_each_state(state["optimizer"], self._expanded)
        return {**state, "optimizer": optimizer, "narrow": self.plan.state_dict() if self.plan.kept else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert not self.plan.kept, "a checkpoint is loaded before training"
        super().load_state_dict(state)
        if state.get("narrow") is not None:
            self.narrow(Plan.from_state(state["narrow"]), {}, {})

    def _expanded(self, name: str, state: dict[str, Any]) -> dict[str, Any]:
        return _changed(state, self._parameters[name].shape, lambda value: self.plan.expand(name, value))


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _changed(state: Mapping[str, Any], shape: Size, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A parameter's optimizer state with what has the parameter's shape changed."""
    return {key: change(value) if has_shape(value, shape) else value for key, value in state.items()}
