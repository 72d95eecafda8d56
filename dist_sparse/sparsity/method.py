"""What the trainer asks of a sparse method, and what a method asks of the engine."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks, combined
from dist_sparse.sparsity.structures import Structure


class WeightAccess(Protocol):
    """What differs between engines, by parameter name. Gradients are whole, averaged over ranks, and unscaled.

    Where ranks share a model out between them, values are there within :meth:`gathered` only; shape, dtype and device always.
    """

    def weight(self, name: str) -> Tensor:
        """The weight, to be read."""
        ...

    def grad(self, name: str) -> Tensor:
        """The gradient, between the last backward of a step and the step. May be written to in place."""
        ...

    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> AbstractContextManager[None]:
        """Within the context this rank has the values of the layers that it names. Collective; each rank names its own.

        A gradient that is written to is to be named, and written alike, by all ranks.
        """
        ...

    def mask_weights(self, masks: Masks) -> None:
        """Zero inactive weights, in every copy that the engine keeps."""
        ...

    def mask_gradients(self, masks: Masks) -> None:
        """Zero the gradients of inactive weights."""
        ...

    def mask_optimizer_state(self, masks: Masks) -> None:
        """Zero the optimizer's state (momentum, second moments) of inactive weights."""
        ...

    def mask_model(self, masks: Masks) -> Callable[[], object]:
        """Zero inactive weights for the forward pass alone; the function returned brings them back bit for bit.

        Neither the optimizer's step nor new weights may come in between.
        """
        ...

    def batch_norms(self, after: str) -> Mapping[str, Tensor]:
        """Parameters and buffers of the batch norms that the model lists after a weight, to be read. Collective."""
        ...

    def set_values(self, values: Mapping[str, Tensor]) -> None:
        """Give parameters and buffers other values, in every copy that the engine keeps; the same on all ranks."""
        ...

    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The optimizer's own state of a parameter, or an empty one. Collective."""
        ...

    def set_optimizer_state(self, name: str, state: dict[str, Any]) -> None:
        """Give the optimizer another state of a parameter; an empty one makes it begin anew."""
        ...


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What an update step means for the rest of the step."""

    skip_optimizer: bool = False
    updates_masks: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """One network that a method trains; most train a single one, without a label."""

    label: str
    masks: Masks
    show: Callable[[], AbstractContextManager[None]] = nullcontext
    """Between two steps: within the context the model is this network."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The same in a checkpoint: packed masks by layer, and what stands in place of the model's own tensors."""

    label: str
    masks: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Method:
    """A method that never moves its masks; the base of all others.

    The trainer calls, on every optimizer step (1 is the first): :meth:`before_forward`, :meth:`after_backward` once the
    gradient is averaged, the engine's step, :meth:`after_step`. On a step that must not count (its gradients overflowed, or
    it :meth:`chooses` by numbers that are not finite) all but the first are left out, and :meth:`after_overflow` is called
    instead. Masks may move before the forward of a step or after its backward; the
    step's :class:`Decision` tells of either.
    """

    name: ClassVar[str]
    uses: ClassVar[frozenset[str]] = frozenset({"density", "distribution", "er_power", "table", "keep_dense", "structure"})
    """Keys of the configuration's sparsity section that act on this method."""

    def __init__(self, *, access: WeightAccess, masks: Masks, agreement: Agreement, remask: bool) -> None:
        """``remask``: the optimizer does not keep zeros by itself, so weights and state are masked after each step."""
        self.access, self.masks, self.agreement, self._remask = access, masks, agreement, remask
        self.changed: dict[str, int] = {}
        """Entries of each mask that the last update changed."""

    dense_weights: ClassVar[str | None] = None
    """Why the model's weights between two steps are dense, and so cannot be averaged; None if they obey the masks."""

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        """Why the method cannot work with a structure, or None if it can."""
        return None

    @classmethod
    def condition(cls, structure: Structure) -> str | None:
        """On what condition the method can work with a structure that it does not refuse, or None if on none."""
        return None

    def start(self) -> None:
        """Begin, or go on after a checkpoint: all ranks hold the same masks, and the model obeys them. Collective."""
        self._enforce_masks()

    def before_forward(self, step: int) -> None:
        """Prepare the weights of step ``step``."""

    def gradient_masks(self, step: int) -> Masks | None:
        """Outside of these masks step ``step`` uses no gradient, so that none is exchanged; None if it uses all.

        Asked between :meth:`before_forward` and :meth:`after_backward`. Steps that use all count in the cost of training.
        """
        return self.masks

    def chooses(self, step: int) -> bool:
        """The gradients of step ``step``, or the weights, choose masks in it, or its gradients are kept to choose by later.

        Such a step does not count if one of them is not finite. Asked between :meth:`before_forward` and
        :meth:`after_backward`. A method that keeps something of every step is to see to it by itself, since no host should
        wait for the device at every step.
        """
        return False

    def after_backward(self, step: int) -> Decision:
        """Move the masks if it is time, then mask the gradients."""
        self.access.mask_gradients(self.masks)
        return Decision()

    def after_overflow(self, step: int) -> Decision:
        """Told of a step that does not count, in place of the two calls around its step: it moves nothing."""
        return Decision()

    def after_step(self, step: int) -> None:
        """Finish the step: off-mask weights and state are exactly 0 afterwards."""
        if self._remask:
            self._zero_inactive()

    def views(self) -> Sequence[View]:
        """The networks that are trained; the last is the one that the run is for."""
        return [View(label="", masks=self.masks)]

    def at_final_density(self) -> bool:
        """Between two steps: the last of the :meth:`views` has come to the density where it stays to the end of the run.

        Networks from before are denser, or thinner, than was asked for: none of them can be the run's best. A method whose
        density moves overrides this.
        """
        return True

    def digests(self) -> dict[str, int]:
        """A digest of every mask."""
        return self.masks.digests()

    def digest(self) -> str:
        """64 bits over all masks."""
        return combined(self.digests())

    def replace_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Take new masks, the same on all ranks, and zero everything that is now inactive. Collective."""
        self.agreement.verify(self.masks.digests)  # before new masks hide it that a rank had lost the old ones
        self.changed = self.masks.replace(masks)
        self._enforce_masks()

    def _enforce_masks(self) -> None:
        self.agreement.verify(self.digests)
        self._zero_inactive()

    def _zero_inactive(self) -> None:
        self.access.mask_weights(self.masks)
        self.access.mask_optimizer_state(self.masks)

    def state_dict(self) -> dict[str, Any]:
        """What decides the method's future, the same on every rank."""
        return self.masks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masks.load_state_dict(state)

    @classmethod
    def networks(cls, state: Mapping[str, Any]) -> Sequence[Network]:
        """The :meth:`views` of a :meth:`state_dict`."""
        return [Network(label="", masks=state["masks"])]
