"""Whether all ranks hold the same of what each of them holds a copy of: weights, optimizer state, buffers.

Nothing that ranks exchange in a step would show that copies differ (a draw that depends on the rank, a memory fault, a
kernel that rounds otherwise on one device): gradients would go on being averaged, over different networks.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.distributed import gather, world_size
from dist_sparse.sparsity.agreement import Disagreement

_BLOCK, _BLOCK_IN_CACHE = 1 << 22, 1 << 15
_FACTOR = 0x9E3779B97F4A7C15 - (1 << 64)
"""Odd, so that multiplying by it loses nothing."""
_NAMED = 8
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ReplicaDisagreement(Disagreement):
    """Two ranks hold different values of what should be the same."""


def verify(replicas: Mapping[str, Any], device: torch.device) -> None:
    """Compare digests of tensors, and of plain values, over ranks: one pass over them and one small exchange. Collective.

    Args:
        replicas: by name; values may be nested in dicts, lists and tuples.

    Raises:
        ReplicaDisagreement: on every rank, naming what differs and the ranks that differ from rank 0.
    """
    if world_size() == 1:
        return
    digests = dict(_digests(replicas))
    _compare({"the set of tensors": _of_bytes(repr(list(digests)))}, device)
    _compare(digests, device)


def _compare(digests: Mapping[str, Tensor], device: torch.device) -> None:
    if not digests:
        return
    table = gather(torch.stack([each.to(device) for each in digests.values()])).cpu()
    differs = table != table[0]
    if differs.any():
        names = [name for name, differing in zip(digests, differs.any(0).tolist(), strict=True) if differing]
        ranks = differs.any(1).nonzero().view(-1).tolist()
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        message = f"ranks differ: ranks {ranks} do not hold rank 0's {', '.join(names[:_NAMED])}{more}"
        raise ReplicaDisagreement(message, rank=dist.get_rank())


def of_optimizer(optimizer: Optimizer, state: Mapping[Tensor, Any], parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """An optimizer's part in what is compared: its ``state`` by parameter, its settings, and what else it would save."""
    found = {f"{key} of {name}": value for name, each in parameters.items() for key, value in state.get(each, {}).items()}
    others = {key: value for key, value in optimizer.state_dict().items() if key not in ("state", "param_groups")}
    return {**found, **settings_of(optimizer), "optimizer": others}


def of_network(model: nn.Module) -> dict[str, Tensor]:
    """Synchronised buffers, and the norms' parameters and biases, of which each of several sub-nets has its own."""
    vectors = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() < 2}
    return {**dict(model.named_buffers()), **vectors}


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """The settings of its parameter groups, such as the learning rate."""
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {"optimizer's settings": groups}


def _digests(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The leaves of a tree by their path."""
    if isinstance(value, Tensor):
        yield name, digest(value)
    elif _is_plain(value):
        yield name, _of_bytes(repr(value))
    elif isinstance(value, Mapping | list | tuple):
        for key, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _digests(each, f"{name}.{key}" if name else str(key))


def _is_plain(value: Any) -> bool:
    """Its text is the same in every process, unlike a function's."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | torch.dtype | None)


def _of_bytes(text: str) -> Tensor:
    return torch.tensor(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True))


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """64 bits over a tensor's bytes and their places, as an int64 scalar on its device.

    A sum of the bytes, eight or one entry's at a time, times odd numbers that grow with the place, modulo 2**64: whichever bit
    changes alone, the digest does.
    """
    words = _words(tensor.detach())
    size = min(len(words), _BLOCK_IN_CACHE if words.device.type == "cpu" else _BLOCK)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    places = torch.arange(size, device=words.device) * 2 + 1
    for block in words.split(max(size, 1)):
        total = total * _FACTOR + (block * places[: len(block)]).sum()
    return total


def _words(tensor: Tensor) -> Tensor:
    """A tensor's bytes as whole numbers in a row, in the order that they lie in."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    flat, size = tensor.contiguous().view(-1), tensor.element_size()
    if flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0:
        return flat.view(torch.int64)
    return flat.view(_INTEGERS[size])
