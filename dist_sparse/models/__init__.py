"""Networks by name: any of timm's, and the families of the reference papers, which importing this package registers with timm.

``python -m dist_sparse.models`` prints a table of the families.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import timm
import torch
from torch import nn

from dist_sparse.config.schema import ModelConfig
from dist_sparse.errors import UserError, is_unknown
from dist_sparse.models import cifar_alexnet, cifar_resnet, cifar_resnet_large, cifar_vgg, cifar_wide_resnet, lenet
from dist_sparse.models.meta import ShapesOnly, meta_copy
from dist_sparse.seeding import derive_seed

FAMILIES = (cifar_resnet, cifar_resnet_large, cifar_vgg, cifar_alexnet, cifar_wide_resnet, lenet)
"""The modules of the reference papers' families, in the order of the table."""


def creation_arguments(config: ModelConfig, *, classes: int, channels: int, image_size: int) -> dict[str, Any]:
    """What :func:`build_model` gives to ``timm.create_model`` beside the name."""
    kwargs: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if _takes_image_size(config.name):
        kwargs["img_size"] = image_size
    if config.drop_path is not None:
        kwargs["drop_path_rate"] = config.drop_path
    return {**kwargs, **config.kwargs}


def build_model(config: ModelConfig, *, classes: int, channels: int, image_size: int, seed: int) -> nn.Module:
    """The network of a run, on the CPU, in training mode.

    Args:
        classes: outputs of the classifier.
        channels, image_size: the images are [B, channels, image_size, image_size].
        seed: the run's seed. The initial weights depend on it alone; torch's own generators are left as they were.

    Raises:
        UserError: an unknown name, bad ``model.kwargs``, no pretrained weights, or images that the network cannot take.
    """
    _check_names(config)
    kwargs = creation_arguments(config, classes=classes, channels=channels, image_size=image_size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed("init", seed))  # torch.manual_seed would seed CUDA as well
        model = _create(config, kwargs)
    _check_forward(config, model, classes, (channels, image_size, image_size))
    return model.train()


def build_meta_model(config: ModelConfig, *, classes: int, channels: int, image_size: int) -> nn.Module:
    """:func:`build_model` on the meta device: the network's shapes, without memory, weights or a download."""
    with torch.device("meta"):
        without_weights = dataclasses.replace(config, pretrained=False)
        return build_model(without_weights, classes=classes, channels=channels, image_size=image_size, seed=0)


def check_sizes(config: ModelConfig, model: nn.Module, *, classes: int, channels: int, sizes: Iterable[int]) -> None:
    """Raise UserError for a network of :func:`build_model` that cannot take square images of other ``sizes`` as well."""
    for size in sorted(sizes):
        _check_forward(config, model, classes, (channels, size, size), key="data.eval_size, data.progressive")


def _check_names(config: ModelConfig) -> None:
    if not timm.is_model(config.name):
        listing = "any of timm's models, or of ours, which `python -m dist_sparse.models` lists"
        raise UserError(f"model.name={config.name!r} {is_unknown(config.name, timm.list_models(), listing)}")
    if reserved := sorted({"num_classes", "in_chans"} & config.kwargs.keys()):
        raise UserError(f"model.kwargs: {' and '.join(reserved)} cannot be given, the data set decides")
    if "checkpoint_path" in config.kwargs:  # which timm would read again whenever the network is built
        raise UserError("model.kwargs: checkpoint_path cannot be given: model.checkpoint starts from a file of weights")


def _takes_image_size(name: str) -> bool:
    """Whether the constructor must be told the size of the images; timm marks such networks (ViT and its kin) itself."""
    try:
        pretrained_cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a name such as resnet18.no_such_weights
        raise UserError(f"model.name: {name!r}: {_reason(error)}") from error
    return pretrained_cfg is not None and pretrained_cfg.fixed_input_size


def _create(config: ModelConfig, kwargs: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(config.name, pretrained=config.pretrained, **kwargs)
    except Exception as error:  # constructors check their arguments in every way there is, assertions among them
        if config.pretrained and isinstance(error, OSError | RuntimeError):
            raise UserError(f"model.pretrained: no weights for {config.name}: {_reason(error)}") from error
        if config.drop_path is not None and "drop_path_rate" in str(error):
            raise UserError(f"model.drop_path: {config.name} has no branches to leave out: {_reason(error)}") from error
        if config.kwargs or "img_size" in kwargs:
            given = config.kwargs or kwargs
            raise UserError(f"model.kwargs: {config.name} cannot be built with {given}: {_reason(error)}") from error
        raise


def _check_forward(
    config: ModelConfig, model: nn.Module, classes: int, image: tuple[int, int, int], *, key: str = "data.image_size"
) -> None:
    """Send the shape of one image through the network, so that images it cannot take are known before the first step."""
    try:
        with torch.no_grad(), ShapesOnly():
            logits = meta_copy(model)(torch.empty(1, *image, device="meta"))
    except Exception as error:
        images = f"images of {'x'.join(map(str, image))} ({key})"
        raise UserError(f"model.name: {config.name} cannot take {images}: {_reason(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, classes):
        raise UserError(f"model.kwargs: with {config.kwargs}, {config.name} does not give one logit a class")


def _reason(error: Exception) -> str:
    """The first line of an error, for a message of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
