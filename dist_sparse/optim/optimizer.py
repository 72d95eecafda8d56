"""Any timm optimizer by name, with weight decay where it belongs and one rule for the learning rate."""

from collections.abc import Iterator
from textwrap import shorten

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn

from dist_sparse.config.schema import OptimConfig
from dist_sparse.errors import UserError, is_unknown

_KEYS_OF_THEIR_OWN = {
    "opt": "optim.name",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "filter_bias_and_bn": "optim.decay_norm_and_bias",
}


def effective_lr(config: OptimConfig, batch_size: int) -> float:
    """The peak learning rate of a run with ``batch_size`` samples a step (over all ranks and accumulation steps).

    It is ``lr * batch_size / lr_batch_size`` where ``lr_batch_size`` is given (the linear rule of Goyal et al. 2017,
    arXiv:1706.02677), else ``lr``.
    """
    return config.lr * batch_size / config.lr_batch_size if config.lr_batch_size else config.lr


def build_optimizer(config: OptimConfig, model: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """The optimizer of a model, made by timm.

    Parameters of fewer than two dimensions, biases, and those that the model's ``no_weight_decay()`` names do not decay.
    ``optim.momentum`` reaches the optimizers that have a momentum; timm leaves the betas of Adam's family to ``optim.kwargs``.
    Multi-tensor (foreach) implementations are the libraries' default and stay so.

    Args:
        batch_size: samples an optimizer step, over all ranks and accumulation steps.

    Raises:
        UserError: unknown optimizer, one that cannot run here, or arguments that it refuses.
    """
    name = _known_name(config)
    _check_arguments(config, name)
    try:
        return create_optimizer_v2(
            model,
            name,
            lr=effective_lr(config, batch_size),
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_norm_and_bias,
            **config.kwargs,
        )
    except ImportError as error:
        raise UserError(f"optim.name={config.name}: needs a package that is not installed ({error})") from None
    except Exception as error:  # constructors check their arguments in every way there is
        raise refused(config, error) from error


def refused(config: OptimConfig, error: Exception) -> UserError:
    """The user's error that stands for one of the optimizer itself, about its arguments."""
    reason = shorten(" ".join(str(error).split()) or type(error).__name__, 300, placeholder=" ...")
    return UserError(f"optim.name={config.name} with optim.kwargs={config.kwargs}: {reason}")


def _known_name(config: OptimConfig) -> str:
    name = config.name.lower()
    base = name.removeprefix("lookahead_")
    if base not in (known := list_optimizers()):
        listing = "sgd, momentum, adamw or any that timm.optim.list_optimizers() lists"
        raise UserError(f"optim.name={config.name!r} {is_unknown(base, map(str, known), listing)}")
    if get_optimizer_info(base).second_order:
        raise UserError(f"optim.name={config.name}: needs second derivatives, which the training loop does not compute")
    return name


def _check_arguments(config: OptimConfig, name: str) -> None:
    """Refuse arguments that have a key of their own or that timm would drop in silence."""
    info = get_optimizer_info(name.removeprefix("lookahead_"))
    for argument in config.kwargs:
        if argument in _KEYS_OF_THEIR_OWN:
            raise UserError(f"optim.kwargs.{argument}: has a key of its own, {_KEYS_OF_THEIR_OWN[argument]}")
        if (argument == "betas" and not info.has_betas) or (argument == "eps" and not info.has_eps):
            raise UserError(f"optim.kwargs.{argument}: {config.name} takes no such argument")


def idle_keys(config: OptimConfig) -> Iterator[tuple[str, str]]:
    """Keys of the section that do nothing as the others are, and why."""
    if not get_optimizer_info(_known_name(config).removeprefix("lookahead_")).has_momentum:
        yield "momentum", f"optim.name={config.name} has none; see optim.kwargs.betas"
    if not config.weight_decay:
        yield "decay_norm_and_bias", "optim.weight_decay is 0"
