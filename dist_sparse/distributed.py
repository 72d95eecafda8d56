"""The process group: one process or many, on CPUs (gloo) or GPUs (NCCL), by the same code."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.rendezvous import rendezvous

from dist_sparse import peers
from dist_sparse.config.engine import EngineConfig
from dist_sparse.errors import Incomplete, UserError
from dist_sparse.preemption import StopAsked, StopSignals

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among all."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def start(config: EngineConfig, signals: StopSignals | None = None) -> Ranks:
    """Join the group that torchrun's environment variables describe, or make a group of one without them.

    A group that exists already is used as it is.

    Raises:
        Incomplete: a rank has died before all had met, or has not come.
        StopAsked: one of the ``signals`` came meanwhile.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE", "1")  # torchrun's, deepspeed's
    device = _device(config.device, local_rank, int(local_world_size))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(minutes=config.timeout)
        if "RANK" in os.environ:
            meeting = _meeting(timeout, signals)
            with peers.watched_from(**meeting):
                dist.init_process_group(backend, timeout=timeout, **meeting)
                # In the group's own store, too: who looks there must find all the others, or would not notice their deaths.
                peers.meet(**{**meeting, "store": _get_default_store()}, seconds=timeout.total_seconds(), check=lambda: None)
        else:
            dist.init_process_group(backend, timeout=timeout, store=dist.HashStore(), rank=0, world_size=1)
    return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)


def _meeting(timeout: timedelta, signals: StopSignals | None) -> dict[str, Any]:
    """Where torchrun's ranks meet, anew after each restart and for each run of a process; returns when all have come.

    In a store that outlives them restarted ranks would find the addresses of dead ones (pytorch issue 135712).
    """

    def check() -> None:
        if signals is not None and signals.asked:
            raise StopAsked(signals.asked)

    seconds = min(timeout.total_seconds(), peers.MEETING)
    try:
        store, rank, world_size = next(rendezvous("env://", timeout=timedelta(seconds=seconds)))
        store.set_timeout(timeout)
        store = dist.PrefixStore(f"attempt_{_attempt()}", store)
        # Each rank counts its own starts, of which all ranks make as many.
        store = dist.PrefixStore(f"start_{store.add(f'dist_sparse/starts_{rank}', 1)}", store)
        peers.meet(store, rank, world_size, seconds=seconds, check=check)
    except dist.DistError as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise Incomplete(f"the ranks' meeting place {place} (MASTER_ADDR, MASTER_PORT) cannot be reached: {error}") from error
    return {"store": store, "rank": rank, "world_size": world_size}


def _attempt() -> str:
    """A number of this start of the ranks, the same on all of them.

    torchrun counts restarts by node, and only those that a rank of the node was the cause of: on several nodes its store does
    not do for them. Without it (``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1``) each start has a store of its own, the first rank's.
    """
    outlives = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if outlives else "0"


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size()


def is_first() -> bool:
    """Whether this is the first rank."""
    return dist.get_rank() == 0


def stop(*, failed: bool = False) -> None:
    """Leave the group.

    After a failure NCCL would wait for the other ranks, which may be waiting for this one: there the process's end does it.
    """
    if dist.is_initialized() and not (failed and dist.get_backend() == "nccl" and dist.get_world_size() > 1):
        dist.destroy_process_group()


def _device(name: str, local_rank: int, local_world_size: int) -> torch.device:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and available < local_world_size:
        error = UserError(
            f"engine.device=cuda needs {local_world_size} CUDA devices on this machine and finds {available}; "
            "engine.device=cpu trains without"
        )
        error.on_all_ranks = local_rank > 0  # the first of each machine speaks for it
        raise error
    if name == "auto" and 0 < available < local_world_size and local_rank == 0:
        _log.warning("training on the CPU: %d ranks on this machine, but %d CUDA devices", local_world_size, available)
    if name == "cpu" or available < local_world_size:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum over all ranks, in place. Collective."""
    dist.all_reduce(values)
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """The element-wise maximum over all ranks, in place. Collective."""
    dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def gather(values: Tensor) -> Tensor:
    """Every rank's tensor of one shape, stacked in the order of ranks. Collective."""
    everyone = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, values)
    return torch.stack(everyone)


def from_first_rank(value: Any) -> Any:
    """Rank 0's value (any picklable object) on every rank. Collective."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def everyones(value: Any) -> list[Any]:
    """Every rank's value (any picklable object), in the order of ranks. Collective."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sum_at(values: Tensor, ranks: Sequence[int]) -> bool:
    """Sum over all ranks, in place, on some of them; tells whether this is one. The others' values are spoilt. Collective."""
    if len(ranks) == 1:
        dist.reduce(values, dst=ranks[0])
    else:
        dist.all_reduce(values)
    return dist.get_rank() in ranks


@torch.no_grad()
def copy_first_rank(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with rank 0's, in place. Collective: one broadcast for all of the same type, as each takes its time."""
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in alike.values():
        values = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(values, src=0)
        for tensor, part in zip(group, values.split([tensor.numel() for tensor in group]), strict=True):
            tensor.copy_(part.view_as(tensor))


class AgreedError(UserError):
    """A mistake that one rank or more have found, raised on all."""

    on_all_ranks = True


@contextlib.contextmanager
def agreeing_on_errors() -> Iterator[None]:
    """Raise a UserError of any rank on all of them, as :class:`AgreedError`, so that none is left waiting. Collective at
    the end of the block.

    The block itself must hold no collective. Equal messages are told once.
    """
    mine: UserError | None = None
    try:
        yield
    except UserError as error:
        mine = error
    messages = everyones(None if mine is None else str(mine))
    told = list(dict.fromkeys(message for message in messages if message is not None))
    if told:
        raise AgreedError("\n".join(told)) from mine
