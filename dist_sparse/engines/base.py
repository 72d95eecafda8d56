"""What an engine is: the base of DDP's and DeepSpeed's, and of any other.

Its class is asked first, when there is only a configuration (:meth:`Engine.resolve` to :meth:`Engine.build`, in the order of a
run); :mod:`.build` does so for the engine that ``engine.name`` names, and nobody else asks for that name. The trainer then
steps what was built.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from dist_sparse.config import Config
from dist_sparse.config.engine import EngineConfig
from dist_sparse.distributed import copy_first_rank
from dist_sparse.engines.capabilities import Capabilities, Holding
from dist_sparse.engines.precision import Precision
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.access import Wanted, WeightAccess
from dist_sparse.sparsity.entries import Entries
from dist_sparse.sparsity.masks import Masks

Loss = Callable[[Tensor, Tensor], Tensor]
"""The loss of logits [B, classes] and targets ([B] class numbers, or [B, classes] probabilities)."""


class Engine(WeightAccess, ABC):
    """Runs forward, backward and optimizer step of one model on all ranks.

    What is not abstract here or in :class:`WeightAccess` has a default: that of an engine whose ranks hold everything whole.
    """

    name: ClassVar[str]
    """The value of ``engine.name``."""
    held_back: bool | None = None
    """After :meth:`step`: the optimizer has left it out by itself, since gradients are not finite; on all ranks alike. It is
    None in an engine whose optimizer never does."""
    keys: ClassVar[frozenset[str]] = frozenset()
    """Keys, such as ``engine.zero.stage``, that act with this engine and are refused with one that does not name them."""

    @classmethod
    def resolve(cls, config: EngineConfig) -> EngineConfig:
        """With what :attr:`keys` leave open filled in.

        Raises:
            UserError: something that they name cannot be used.
        """
        return config

    @classmethod
    @abstractmethod
    def capabilities(cls, config: EngineConfig) -> Capabilities:
        """All that the rest of the program goes by. Of a section that is not resolved yet, the default's."""

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        """Refuse with a UserError what a resolved configuration asks for and this engine cannot do."""

    @classmethod
    def check_installed(cls) -> None:
        """Refuse with a UserError to be built where a package is missing."""

    @classmethod
    @abstractmethod
    def build(
        cls,
        config: Config,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        precision: Precision,
        weights: PackedWeights | None = None,
    ) -> "Engine":
        """``model`` is already placed by ``precision``, and ``optimizer`` holds its parameters. Collective.

        ``weights`` are the model's packed ones. They are given to the classes in ``PACKING_ENGINES`` alone.
        """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss: Loss, *, precision: Precision, accumulation: int = 1
    ) -> None:
        self.model, self.precision = model, precision
        self._optimizer, self._loss = optimizer, loss
        self._accumulation, self._micro_batches = accumulation, 0
        self._parameters = dict(model.named_parameters())

    model: nn.Module
    """The bare model: its parameters' names are those of timm."""
    precision: Precision

    def close(self) -> None:
        """Give back what the engine has changed in the process; nothing the second time. It computes no more after it."""

    def describe_exchange(self, gradient_masks: Masks | None) -> str | None:
        """One line on what a step with these masks sends to other ranks; None where it depends on no key."""
        return None

    @abstractmethod
    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        """Run one micro-batch; returns its loss, detached, as a scalar on the device.

        Gradients of weights that ``gradient_masks`` or, without these, ``wanted`` leave out are not needed: at the step
        boundary they may be 0.
        """

    def _count_micro_batch(self) -> None:
        """To be called as the first thing in :meth:`forward_backward`."""
        self._micro_batches = self._micro_batches % self._accumulation + 1

    @property
    def at_step_boundary(self) -> bool:
        """The last :meth:`forward_backward` ended an optimizer step's micro-batches; gradients are averaged over ranks."""
        return self._micro_batches == self._accumulation

    @property
    @abstractmethod
    def overflowed(self) -> bool:
        """At a step boundary: the scaled gradients are not finite (fp16 only), on all ranks alike."""

    @property
    def loss_scale(self) -> float:
        """What the loss of this step was multiplied by; on all ranks alike."""
        return 1.0

    @property
    def learning_rate(self) -> float:
        """The present rate, of layers that are not told to learn more slowly."""
        group = max(self._optimizer.param_groups, key=lambda group: group.get("lr_scale", 1.0))
        return float(group["lr"])

    @abstractmethod
    def step(self, *, skip: bool) -> None:
        """Clip and take the optimizer step (unless skipped), then drop the gradients."""

    def kept_grad(self, name: str) -> Tensor | Entries:
        return self.grad(name).clone()

    def held_weight(self, name: str) -> Tensor | Entries:
        return self.weight(name)

    def values(self, name: str) -> Tensor:
        return self.weight(name)

    def batch_norms(self, after: str) -> Mapping[str, Tensor]:
        modules = dict(self.model.named_modules())
        later = list(modules)[list(modules).index(after.rpartition(".")[0]) :]
        return {
            f"{module}.{name}": tensor.detach()
            for module in later
            if isinstance(modules[module], _BatchNorm)
            for name, tensor in modules[module].state_dict(keep_vars=True).items()
        }

    @abstractmethod
    def held(self, what: Holding) -> Iterable[tuple[str, Tensor]]:
        """What this rank holds of all weights, of their gradients (at a step boundary) or of the optimizer's state, by name.

        A copy of the weights that the optimizer steps belongs to its state.
        """

    def gradient_bytes(self) -> int:
        """Bytes of the gradients that this rank holds between the last backward of a step and the step."""
        return sum(weight.numel() * weight.element_size() for weight in self._parameters.values() if weight.requires_grad)

    @abstractmethod
    def replicas(self) -> dict[str, Any]:
        """What every rank holds a copy of between two steps, by name: weights, the optimizer's state, the loss scale.

        Not so buffers, which are each rank's own until :meth:`synchronise_buffers`.
        """

    def synchronise_buffers(self) -> None:
        """Give every rank the first rank's buffers (running statistics), so that all validate the same model. Collective."""
        copy_first_rank(self.model.buffers())

    def mask_copy(self, copy: nn.Module, masks: Masks) -> None:
        """Zero what a copy of the model, such as its moving average, holds of inactive weights."""
        parameters = dict(copy.named_parameters())
        masks.multiply_({name: parameters[name].detach() for name in masks.names})

    def plain_state(self, model: nn.Module) -> dict[str, Any]:
        """The state of the model or of a copy, as one of timm's has it; each tensor may be a :class:`.PackedTensor`."""
        return model.state_dict()

    def load_plain_state(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Give the model or a copy what :meth:`plain_state` gave."""
        model.load_state_dict(state)

    def index_bytes(self) -> int:
        """The memory that it takes to know where weights belong of which only the active ones are there."""
        return 0

    def full_parameters(self) -> AbstractContextManager[None]:
        """Within the context the model's parameters are whole on every rank, to be read and to run it forward. Collective."""
        return contextlib.nullcontext()

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer and loss scaler; on the first rank at least. Its entry ``state_dict`` is that of a
        plain model. Sparse tensors may be :class:`.PackedTensor` (:func:`dist_sparse.packed_state.unpack` makes them whole)."""

    def save_shards(self, folder: Path) -> dict[str, int] | None:
        """Write what :meth:`state_dict` cannot hold to a folder; returns the files' sizes, None without any. Collective.

        Raises:
            OSError: the file system refused some rank's part; on all ranks alike.
        """
        return None

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the entry ``shards`` is the folder that :meth:`save_shards` wrote to, and
        the entry ``method`` what the method is going to take over, with its masks."""


@contextlib.contextmanager
def closed_on_failure(engine: Engine) -> Iterator[None]:
    """Close an engine if the block, which makes it ready for use, does not end well."""
    try:
        yield
    except BaseException:
        engine.close()
        raise
