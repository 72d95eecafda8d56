"""Any timm optimizer by name, with weight decay where it belongs and one rule for the learning rate."""

import dataclasses
from collections.abc import Iterator
from textwrap import shorten

import torch
from timm.optim import Lookahead, create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn

from dist_sparse.config.schema import OptimConfig
from dist_sparse.errors import UserError, is_unknown

_KEYS_OF_THEIR_OWN = {
    "opt": "optim.name",
    "lr": "optim.lr",
    "momentum": "optim.momentum",
    "weight_decay": "optim.weight_decay",
    "filter_bias_and_bn": "optim.decay_norm_and_bias",
    "layer_decay": "optim.layer_decay",
}
_LEAST_SCALE, _NOT_TRAINED = "layer_decay_min_scale", "layer_decay_no_opt_scale"
"""timm's arguments beside ``layer_decay``: the least scale of a rate, and the scale below which no layer is trained."""
_LOOKAHEAD = "lookahead_"
"""timm's prefix of an optimizer's name, for which there are keys here."""


def effective_lr(config: OptimConfig, batch_size: int) -> float:
    """The peak learning rate of a run with ``batch_size`` samples a step (over all ranks and accumulation steps).

    It is ``lr * batch_size / lr_batch_size`` where ``lr_batch_size`` is given (the linear rule of Goyal et al. 2017,
    arXiv:1706.02677), else ``lr``.
    """
    return config.lr * batch_size / config.lr_batch_size if config.lr_batch_size else config.lr


def for_trial(config: OptimConfig) -> OptimConfig:
    """The settings for a few weights that are no network: these have no order of layers."""
    return dataclasses.replace(config, layer_decay=None, kwargs={k: v for k, v in config.kwargs.items() if k != _LEAST_SCALE})


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
    layer_decay = None if config.layer_decay == 1 else config.layer_decay  # 1: all layers learn alike, of any network
    try:
        optimizer = create_optimizer_v2(
            model,
            name,
            lr=effective_lr(config, batch_size),
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_norm_and_bias,
            layer_decay=layer_decay,
            **config.kwargs,
        )
    except ImportError as error:
        raise UserError(f"optim.name={config.name}: needs a package that is not installed ({error})") from None
    except Exception as error:  # constructors check their arguments in every way there is
        raise refused(config, error) from error
    if layer_decay is not None and len({group.get("lr_scale", 1.0) for group in optimizer.param_groups}) == 1:
        raise UserError(f"optim.layer_decay={layer_decay:g}: timm knows no order of this network's layers; leave it out")
    return Lookahead(optimizer, config.lookahead_alpha, config.lookahead_k) if config.lookahead else optimizer


def refused(config: OptimConfig, error: Exception) -> UserError:
    """The user's error that stands for one of the optimizer itself, about its arguments."""
    reason = shorten(" ".join(str(error).split()) or type(error).__name__, 300, placeholder=" ...")
    return UserError(f"optim.name={config.name} with optim.kwargs={config.kwargs}: {reason}")


def _known_name(config: OptimConfig) -> str:
    name = config.name.lower()
    if name.startswith(_LOOKAHEAD):
        base = name.removeprefix(_LOOKAHEAD)
        raise UserError(f"optim.name={config.name}: is written optim.name={base} and optim.lookahead=true")
    if name not in (known := list_optimizers()):
        listing = "sgd, momentum, adamw or any that timm.optim.list_optimizers() lists"
        raise UserError(f"optim.name={config.name!r} {is_unknown(name, map(str, known), listing)}")
    if get_optimizer_info(name).second_order:
        raise UserError(f"optim.name={config.name}: needs second derivatives, which the training loop does not compute")
    return name


def _check_arguments(config: OptimConfig, name: str) -> None:
    """Refuse arguments that have a key of their own or that timm would drop in silence."""
    info = get_optimizer_info(name)
    for argument in config.kwargs:
        if argument in _KEYS_OF_THEIR_OWN:
            raise UserError(f"optim.kwargs.{argument}: has a key of its own, {_KEYS_OF_THEIR_OWN[argument]}")
        if (argument == "betas" and not info.has_betas) or (argument == "eps" and not info.has_eps):
            raise UserError(f"optim.kwargs.{argument}: {config.name} takes no such argument")
        if argument == _NOT_TRAINED:
            raise UserError(f"optim.kwargs.{argument}: all layers are trained here; optim.layer_decay gives them rates")
        if argument == _LEAST_SCALE and config.layer_decay is None:
            raise UserError(f"optim.kwargs.{argument}: does nothing without optim.layer_decay")


def idle_keys(config: OptimConfig) -> Iterator[tuple[str, str]]:
    """Keys of the section that do nothing as the others are, and why."""
    if not get_optimizer_info(_known_name(config)).has_momentum:
        yield "momentum", f"optim.name={config.name} has none; see optim.kwargs.betas"
    if not config.weight_decay:
        yield "decay_norm_and_bias", "optim.weight_decay is 0"
    if not config.lookahead:
        yield from ((key, "optim.lookahead is false") for key in ("lookahead_k", "lookahead_alpha"))
