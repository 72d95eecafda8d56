"""What a network does in training, seen from shapes alone."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dist_sparse.config.schema import ModelConfig
from dist_sparse.errors import UserError
from dist_sparse.models.meta import ShapesOnly, meta_copy


def batch_statistics(config: ModelConfig, model: nn.Module, *, channels: int, side: int) -> dict[str, int]:
    """Send the shape of one image through the network in training mode.

    Returns:
        How many values of a channel each batch norm took its statistics from, by name.

    Raises:
        UserError: arguments that the network refuses in training only, such as a share of dropped paths above 1.
    """
    copy, seen = meta_copy(model).float().train(), {}  # like the image
    for name, module in copy.named_modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(partial(_note, seen, name))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _Training():
            copy(torch.empty(1, channels, side, side, device="meta", dtype=next(copy.parameters()).dtype))
    except NotImplementedError:  # shapes alone do not tell
        return {}
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"model.kwargs: {config.name} with {config.kwargs} cannot be trained: {reason}") from error
    return seen


def checkpoint_gradients(name: str, model: nn.Module) -> None:
    """Let a network keep less from its forward pass, and compute it again in its backward pass.

    Raises:
        UserError: it has no blocks that timm can compute again.
    """
    switch = getattr(model, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise NotImplementedError("it has no set_grad_checkpointing, as timm's networks have")
        switch(True)
    except (AssertionError, NotImplementedError) as error:
        raise UserError(f"train.grad_checkpointing: not with {name}: {error}") from error


def synchronise_batch_norms(model: nn.Module) -> nn.Module:
    """The network with torch's SyncBatchNorm in the place of its batch norms, which holds the same tensors."""
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(model)


def _note(seen: dict[str, int], name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if module.training and name not in seen:
        seen[name] = inputs[0].numel() // inputs[0].shape[1]


class _Training(ShapesOnly):
    """Torch checks no probability on the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.bernoulli_:
            p = args[1] if len(args) > 1 else (kwargs or {}).get("p", 0.5)
            if not isinstance(p, Tensor) and not 0 <= p <= 1:
                raise ValueError(f"a probability of {p:g}")
        return super().__torch_function__(func, types, args, kwargs)
