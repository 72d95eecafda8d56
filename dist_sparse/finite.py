"""Numbers that are not finite: steps that must not count because of them, and state that must not be saved."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dist_sparse.distributed import everyones, max_over_ranks
from dist_sparse.engines.base import Engine
from dist_sparse.engines.capabilities import Holding
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.packed_tensor import PackedTensor
from dist_sparse.sparsity.tensors import is_finite

_log = logging.getLogger(__name__)

_Named = Iterable[tuple[str, Tensor]]


class Undoing:
    """Finds the steps that must not count, and takes back what their forward has done to the model's buffers.

    Those are in fp16 the steps whose gradients overflowed, and in any precision those that choose masks, or gather gradients
    to choose them by, while some gradient or weight is not finite; and those that the engine's optimizer leaves out by itself.
    All other steps go on without the host waiting to see: where they lead to weights that are not finite, the loss tells.
    """

    def __init__(self, engine: Engine, method: Method) -> None:
        self._engine, self._method = engine, method
        self.follow_model()
        self._kept = self._told = False
        self.in_a_row = 0
        """The last steps that were undone in any precision, one after the other. In fp16 an overflow counts only
        where the scale is below 1: before, it is the scale that is too large."""

    def follow_model(self) -> None:
        """The model has other buffers than before. To be called between two steps."""
        self._buffers = _by_dtype(self._engine.model.buffers())
        self._copies = [[torch.empty_like(buffer) for buffer in group] for group in self._buffers]

    def begin(self, step: int) -> None:
        """Before the first forward of ``step`` and after what the method does before it."""
        self._kept = self._engine.precision.scaled or self._engine.held_back is not None or self._method.chooses(step)
        if self._kept:
            _copy(self._buffers, self._copies)

    def needed(self, step: int) -> bool:
        """At the boundary of ``step``: it must not count, and the buffers are as before it. Collective, all ranks alike."""
        if self._engine.overflowed:
            if self._engine.loss_scale >= 1:
                self.in_a_row = 0
            else:
                self._count(
                    "step %d has gradients that are not finite even at a loss scale below 1: it is left out, as any further "
                    "one is",
                    step,
                )
        elif self._method.chooses(step) and not finite_everywhere(self._engine, "gradients", "weights"):
            self._count(
                "step %d would choose masks by gradients or weights that are not finite: it is left out, as any further "
                "one is, and a later step makes up for it",
                step,
            )
        else:
            return False
        self._take_back()
        return True

    def held_back(self, step: int) -> bool:
        """After the engine's part of a step that was not undone before: its optimizer has left it out, so that it is now."""
        if not self._engine.held_back:
            self.in_a_row = 0
            return False
        self._count("step %d has gradients that are not finite: it is left out, as any further one is", step)
        self._take_back()
        return True

    def _count(self, message: str, step: int) -> None:
        self.in_a_row += 1
        if not self._told:
            self._told = True
            _log.warning(message, step)

    def _take_back(self) -> None:
        if self._kept:
            _copy(self._copies, self._buffers)


def finite_everywhere(engine: Engine, *what: Holding) -> bool:
    """Whether all of this is finite in what every rank holds of it. Collective."""
    return not _on_some_rank(bool(not_finite(named for each in what for named in engine.held(each))), engine)


def not_finite(tensors: _Named) -> list[str]:
    """The names of tensors that hold an infinity or what is not a number. The host waits once for each device."""
    flags: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        if tensor.is_floating_point() or tensor.is_complex():
            flags.setdefault(tensor.device, []).append((name, is_finite(tensor)))
    found = []
    for named in flags.values():
        values = torch.stack([flag for _, flag in named]).tolist()
        found += [name for (name, _), finite in zip(named, values, strict=True) if not finite]
    return found


class Soundness:
    """Whether everything that a checkpoint is to hold is finite."""

    def __init__(self, engine: Engine) -> None:
        """From the beginning of a run: what the model's own buffers hold then that is not finite (such as masks of attention)
        is as it should be."""
        self._engine = engine
        self._constant = frozenset(not_finite(engine.model.named_buffers()))

    def complaints(self, state: Mapping[str, Any]) -> list[str]:
        """What is not finite in the state to be saved or in the parts that ranks hold. The same on all ranks, collective."""
        held = [(f"{what} {name}", tensor) for what in ("weights", "optimizer") for name, tensor in self._engine.held(what)]
        buffers = [(f"buffer {name}", tensor) for name, tensor in self._engine.model.named_buffers()]
        constant = {f"{place}{name}" for name in self._constant for place in ("buffer ", "state_dict.", "state_dict_ema.")}
        mine = [name for name in not_finite([*held, *buffers, *_tensors(state)]) if name not in constant]
        if not _on_some_rank(bool(mine), self._engine):
            return []
        return list(dict.fromkeys(name for each in everyones(mine) for name in each))


def _tensors(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a tree of dicts, lists and tuples, by the keys on the way to them."""
    if isinstance(tree, Tensor | PackedTensor):
        yield path, tree.values if isinstance(tree, PackedTensor) else tree
    elif isinstance(tree, Mapping | list | tuple):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _tensors(value, f"{path}.{key}" if path else str(key))


def _on_some_rank(value: bool, engine: Engine) -> bool:
    return bool(max_over_ranks(torch.tensor(int(value), dtype=torch.int32, device=engine.precision.device)))


def _by_dtype(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """In groups of one type and device, each of which a single call can copy."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


@torch.no_grad()
def _copy(sources: Sequence[list[Tensor]], targets: Sequence[list[Tensor]]) -> None:
    for source, target in zip(sources, targets, strict=True):
        torch._foreach_copy_(target, source)
