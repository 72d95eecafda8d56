"""What the trainer asks of an engine; DDP and DeepSpeed share it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from dist_sparse.engines.precision import Precision
from dist_sparse.sparsity.access import WeightAccess
from dist_sparse.sparsity.masks import Masks

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits [B, classes] and targets ([B] class numbers, or [B, classes] probabilities)."""


Holding = Literal["weights", "gradients", "optimizer"]


class Engine(WeightAccess, Protocol):
    """Runs forward, backward and optimizer step of one model on all ranks."""

    model: nn.Module
    """The bare model: its parameters' names are those of timm."""
    precision: Precision

    @property
    def at_step_boundary(self) -> bool:
        """The last :meth:`forward_backward` ended an optimizer step's micro-batches; gradients are averaged over ranks."""
        ...

    @property
    def overflowed(self) -> bool:
        """At a step boundary: the scaled gradients are not finite (fp16 only), on all ranks alike."""
        ...

    @property
    def learning_rate(self) -> float:
        """The present rate of the first parameter group."""
        ...

    def forward_backward(self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None) -> Tensor:
        """Run one micro-batch; returns its loss, detached, as a scalar on the device.

        Gradients of weights that ``gradient_masks`` leave out are not needed: at the step boundary they may be 0.
        """
        ...

    def step(self, *, skip: bool) -> None:
        """Clip and take the optimizer step (unless skipped), then drop the gradients."""
        ...

    def held(self, what: Holding) -> Iterable[tuple[str, Tensor]]:
        """What this rank holds of all weights, of their gradients (at a step boundary) or of the optimizer's state, by name."""
        ...

    def synchronise_buffers(self) -> None:
        """Give every rank the first rank's buffers (running statistics), so that all validate the same model. Collective."""
        ...

    def replicas(self) -> dict[str, Any]:
        """What every rank holds a copy of between two steps, by name: weights, the optimizer's state, the loss scale.

        Not so buffers, which are each rank's own until :meth:`synchronise_buffers`.
        """
        ...

    def full_parameters(self) -> AbstractContextManager[None]:
        """Within the context the model's parameters are whole on every rank, to be read and to run it forward. Collective."""
        ...

    def save_shards(self, folder: Path) -> dict[str, int] | None:
        """Write what :meth:`state_dict` cannot hold to a folder; returns the files' sizes, None without any. Collective.

        Raises:
            OSError: the file system refused some rank's part; on all ranks alike.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer and loss scaler; on the first rank at least. Its entry ``state_dict`` loads into a plain model."""
        ...

    def close(self) -> None:
        """Give back what the engine has changed in the process; nothing the second time. It computes no more after it."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the entry ``shards`` is the folder that :meth:`save_shards` wrote to."""
        ...


@contextlib.contextmanager
def closed_on_failure(engine: Engine) -> Iterator[None]:
    """Close an engine if the block, which makes it ready for use, does not end well."""
    try:
        yield
    except BaseException:
        engine.close()
        raise
