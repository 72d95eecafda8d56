"""What a sparse method asks of the engine that trains the model."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from dist_sparse.sparsity.entries import Entries
from dist_sparse.sparsity.masks import Masks

Wanted = Callable[[str, Tensor], Tensor]
"""From a layer's name and the gradient of its whole weight to the entries that are used: bool of its shape, all others may
be 0."""


class WeightAccess(Protocol):
    """What differs between engines, by parameter name. Gradients are whole, averaged over ranks, and unscaled.

    Where ranks share a model out between them, values are there within :meth:`gathered` only; shape, dtype and device always.
    """

    @abstractmethod
    def weight(self, name: str) -> Tensor:
        """The weight, to be read."""
        ...

    @abstractmethod
    def grad(self, name: str) -> Tensor:
        """The gradient, between the last backward of a step and the step. May be written to in place."""
        ...

    @abstractmethod
    def kept_grad(self, name: str) -> Tensor | Entries:
        """The gradient, to be kept beyond the step."""
        ...

    @abstractmethod
    def held_weight(self, name: str) -> Tensor | Entries:
        """The weight as the engine holds it, whole or the active entries, to be read."""
        ...

    @abstractmethod
    def values(self, name: str) -> Tensor:
        """All entries of the weight that may be other than 0, in any shape and order, to be read."""
        ...

    @abstractmethod
    def gathered(self, *, weights: Iterable[str] = (), gradients: Iterable[str] = ()) -> AbstractContextManager[None]:
        """Within the context this rank has the values of the layers that it names. Collective; each rank names its own.

        A gradient that is written to is to be named, and written alike, by all ranks.
        """
        ...

    @abstractmethod
    def mask_weights(self, masks: Masks) -> None:
        """Zero inactive weights, in every copy that the engine keeps."""
        ...

    @abstractmethod
    def mask_gradients(self, masks: Masks) -> None:
        """Zero the gradients of inactive weights."""
        ...

    @abstractmethod
    def mask_optimizer_state(self, masks: Masks) -> None:
        """Zero the optimizer's state (momentum, second moments) of inactive weights."""
        ...

    @abstractmethod
    def mask_model(self, masks: Masks) -> Callable[[], object]:
        """Zero inactive weights for the forward pass alone; the function returned brings them back bit for bit.

        Neither the optimizer's step nor new weights may come in between.
        """
        ...

    @abstractmethod
    def batch_norms(self, after: str) -> Mapping[str, Tensor]:
        """Parameters and buffers of the batch norms that the model lists after a weight, to be read. Collective."""
        ...

    @abstractmethod
    def set_values(self, values: Mapping[str, Tensor]) -> None:
        """Give parameters and buffers other values, in every copy that the engine keeps; the same on all ranks."""
        ...

    @abstractmethod
    def optimizer_state(self, name: str) -> dict[str, Any]:
        """The optimizer's own state of a parameter, or an empty one. Collective."""
        ...

    @abstractmethod
    def set_optimizer_state(self, name: str, state: dict[str, Any]) -> None:
        """Give the optimizer another state of a parameter; an empty one makes it begin anew."""
        ...
