"""Averaging gradients over ranks without those of inactive weights: a communication hook for DistributedDataParallel.

All ranks hold the same masks, so no index is sent: of each bucket the entries that the masks keep are packed,
averaged and unpacked, and all others become 0. What is averaged is what the dense exchange would give, bit for bit with two
ranks; with more, sums are taken in another order, the same on all ranks and at the same step of a resumed run.

An inf or nan in the gradient of an inactive weight is not sent and becomes 0, where after the dense exchange a step in fp16
would count as overflowed and be left out. Nothing uses such a gradient. Ranks agree about overflows in either case, since
afterwards all hold the same values.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future

from dist_sparse.engines.traffic import WORTH_PACKING, Compress, elements_per_step
from dist_sparse.sparsity.masks import Masks

Choice = Literal["auto", "masked", "dense"]


@dataclass(frozen=True)
class _Packing:
    """What is sent of one bucket."""

    whole: Sequence[slice]
    """Runs of the bucket of which every entry is sent, copied as they are: far faster than entry by entry."""
    positions: Tensor
    """Positions of all other entries that are sent, ascending."""
    values: Tensor
    """Room for what is sent, the single entries before the runs."""

    def pack(self, buffer: Tensor) -> Tensor:
        single, *runs = self._parts(self.values)
        torch.index_select(buffer, 0, self.positions, out=single)
        for run, part in zip(runs, self.whole, strict=True):
            run.copy_(buffer[part])
        return self.values

    def unpack(self, buffer: Tensor, values: Tensor) -> Tensor:
        single, *runs = self._parts(values)
        buffer.zero_().scatter_(0, self.positions, single)
        for run, part in zip(runs, self.whole, strict=True):
            buffer[part].copy_(run)
        return buffer

    def _parts(self, values: Tensor) -> Sequence[Tensor]:
        return values.split([len(self.positions), *(run.stop - run.start for run in self.whole)])


_Known = tuple[tuple[str, ...], _Packing | None]
"""With the parameters that were in the bucket: DDP itself may fill it anew (see :mod:`.buckets`)."""


class Exchange:
    """Averages the buckets of one model; :meth:`begin` says for which masks."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, worth_packing: float, compress: Compress = "none") -> None:
        """Buckets with at most the share ``worth_packing`` of their entries active are packed, the others sent whole."""
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in parameters.items()}
        self._worth_packing, self._compressed = worth_packing, compress == "bf16"
        self._world_size = dist.get_world_size()
        self._masks: Masks | None = None
        self._known: WeakKeyDictionary[Masks, tuple[int, dict[int, _Known]]] = WeakKeyDictionary()
        """By the number of the bucket, for the masks of one version."""
        self.sent = 0
        """Elements that were sent in the last step."""
        self.total = 0
        """Elements of all its buckets."""

    def begin(self, masks: Masks | None) -> None:
        """The next backward averages the gradients of the weights that ``masks`` keep, or of all."""
        self._masks = masks
        self.sent = self.total = 0

    def average(self, _state: object, bucket: dist.GradBucket) -> Future[Tensor]:
        """The hook: the mean of a bucket over ranks, in place."""
        buffer, packing = bucket.buffer(), self._packing(bucket)
        sent = buffer if packing is None else packing.pack(buffer)
        self.sent += sent.numel()
        self.total += buffer.numel()
        sent = (sent.bfloat16() if self._compressed else sent).mul_(1 / self._world_size)

        def finish(averaged: Future[list[Tensor]]) -> Tensor:
            values = averaged.value()[0].to(buffer.dtype)
            if packing is not None:
                return packing.unpack(buffer, values)
            return buffer.copy_(values) if self._compressed else buffer

        work = dist.all_reduce(sent, async_op=True)
        assert work is not None, "asynchronous"
        return work.get_future().then(finish)

    def _packing(self, bucket: dist.GradBucket) -> _Packing | None:
        """How a bucket is packed by the present masks, or None if it is sent as it is."""
        masks = self._masks
        if masks is None:
            return None
        version, packings = self._known.get(masks, (-1, {}))
        if version != masks.version:
            packings = {}
            self._known[masks] = masks.version, packings
        names = tuple(self._names[parameter] for parameter in bucket.parameters())
        known = packings.get(bucket.index())
        if known is None or known[0] != names:
            known = packings[bucket.index()] = names, self._pack(bucket, names, masks)
        return known[1]

    def _pack(self, bucket: dist.GradBucket, names: tuple[str, ...], masks: Masks) -> _Packing | None:
        buffer, masked = bucket.buffer(), frozenset(masks.names)
        active = torch.zeros_like(buffer, dtype=torch.bool)
        whole: list[slice] = []
        for name, parameter, gradient in zip(names, bucket.parameters(), bucket.gradients(), strict=True):
            offset = (gradient.data_ptr() - buffer.data_ptr()) // buffer.element_size()
            if name not in masked:
                _append(whole, slice(offset, offset + parameter.numel()))
            else:
                # The gradients in a bucket lie as their weights do, whatever the strides of the views say that DDP hands out.
                active.as_strided(parameter.size(), parameter.stride(), offset).copy_(masks[name])
        positions = active.nonzero().flatten()
        sent = len(positions) + sum(run.stop - run.start for run in whole)
        if sent == len(buffer) or sent > self._worth_packing * len(buffer):
            return None
        return _Packing(whole, positions, buffer.new_empty(sent))


def _append(runs: list[slice], run: slice) -> None:
    """Add a run, as part of the last one if it begins where that ends."""
    if runs and runs[-1].stop == run.start:
        run = slice(runs.pop().start, run.stop)
    runs.append(run)


def build_exchange(model: nn.Module, choice: Choice, compress: Compress) -> Exchange | None:
    """What averages a model's gradients, or None for DDP's own way.

    ``auto`` packs each bucket of which at most half is active, unless one machine's GPUs exchange over NCCL: between them
    sending is expected to be faster than packing is (not measured yet).
    """
    worth_packing = _worth_packing(choice)
    if dist.get_world_size() == 1:
        compress = "none"  # gradients that stay here need not be rounded
    if not worth_packing and compress == "none":
        return None
    return Exchange(dict(model.named_parameters()), worth_packing=worth_packing, compress=compress)


def _worth_packing(choice: Choice) -> float:
    """The largest active share of a bucket that is packed."""
    if choice == "auto":
        return 0.0 if dist.get_world_size() == 1 or _within_one_machine() else WORTH_PACKING
    return 1.0 if choice == "masked" else 0.0


def _within_one_machine() -> bool:
    return dist.get_backend() == "nccl" and os.environ.get("LOCAL_WORLD_SIZE") == str(dist.get_world_size())


def describe(model: nn.Module, choice: Choice, compress: Compress, masks: Masks | None) -> str:
    """One line on what a step exchanges with these gradient masks, and why it is not less."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = elements_per_step(sizes, {})
    active = total if masks is None else elements_per_step(sizes, masks.active())
    if choice == "dense":
        reason = "engine.exchange=dense"
    elif choice == "auto" and _within_one_machine():
        reason = "NCCL within one machine, where engine.exchange=masked would pack them"
    elif masks is None:
        reason = "the coming step uses those of inactive weights too"
    elif active == total:
        reason = "all weights are active yet"
    elif active > (most := _worth_packing(choice)) * total:
        reason = f"{active / total:.0%} are of active weights, auto packs buckets of which at most {most:.0%} are"
    else:
        reason = ""
    what = f"all {total:,}: {reason}" if reason else f"of active weights, {active:,} of {total:,} ({active / total:.1%})"
    return f"gradients exchanged in a step{' (bf16)' if compress == 'bf16' else ''}: {what}"
