"""Making a network compute sparsely: its modules' classes change, and with them their forward; nothing else does."""

from collections.abc import Iterable, Mapping
from typing import cast

from torch import Tensor, nn

from dist_sparse.execution.current import Current, LayerProducts
from dist_sparse.execution.fusion import Around, around_norms
from dist_sparse.execution.kernels import Kernels
from dist_sparse.execution.modules import DenseLayer, SparseConv2d, SparseLinear, make_sparse, qualifies
from dist_sparse.execution.norm_modules import InnermostBatchNorm2d, NormReLU
from dist_sparse.execution.pool_modules import InnermostAdaptiveAvgPool2d, InnermostAvgPool2d, InnermostMaxPool2d
from dist_sparse.execution.stem import InnermostConv2d, WholeProducts, give_innermost, sees_images

_POOLING: Mapping[type[nn.Module], type[nn.Module]] = {
    nn.MaxPool2d: InnermostMaxPool2d,
    nn.AvgPool2d: InnermostAvgPool2d,
    nn.AdaptiveAvgPool2d: InnermostAdaptiveAvgPool2d,
}


def qualifying(model: nn.Module, names: Iterable[str]) -> dict[str, DenseLayer]:
    """The layers, by the names of their weights, that sparse ways can compute."""
    modules = dict(model.named_modules())
    layers = {name: modules[name.removesuffix("weight").removesuffix(".")] for name in names}
    return {name: cast(DenseLayer, module) for name, module in layers.items() if qualifies(module)}


def prepare(model: nn.Module, current: Current, images: Tensor | None) -> None:
    """Let the masked layers of a network compute as ``current`` has it, and what lies between keep the memory format of that.

    Nothing but classes of modules changes, and what they keep beside parameters and buffers: names, state and hooks stay.

    Args:
        images: [B, C, H, W], of a size that the network takes, to watch a forward pass of and find the ReLUs that batch norms
            can do, and the convolutions before them; None if something may come between them, so that there are none.
    """
    modules, kernels = dict(model.named_modules()), current.backend.kernels
    around = Around() if kernels is None or images is None else around_norms(model, images)
    for name, module in qualifying(model, current.masks.names).items():
        make_sparse(module, current.backend, LayerProducts(current, name, module.weight.element_size()))
    if kernels is None:
        return
    for name, module in modules.items():
        if name in around.convolutions and sees_images(module):  # and has no mask: those have another class by now
            give_innermost(module, WholeProducts(current))
        else:
            _keep_innermost(module, kernels, defers=name in around.before_relu)


def _keep_innermost(module: nn.Module, kernels: Kernels, *, defers: bool) -> None:
    """Let a batch norm, a ReLU or a pooling take tensors with samples innermost, and give such ones."""
    if type(module) is nn.BatchNorm2d:
        module.__class__ = InnermostBatchNorm2d
        assert isinstance(module, InnermostBatchNorm2d)
        module.kernels, module.defers = kernels, defers
    elif type(module) is nn.ReLU:
        module.__class__ = NormReLU
    elif type(module) in _POOLING:
        module.__class__ = _POOLING[type(module)]
        module.__dict__["kernels"] = kernels


def lay_out(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Bring weights into the order of memory in which sparse layers read them; returns those of ``names``, by name.

    To be called before an optimizer has state, or an engine holds the model.
    """
    parameters = dict(model.named_parameters())
    for module in model.modules():
        if isinstance(module, SparseConv2d | InnermostConv2d):
            module.weight.data = module.weight.data.contiguous()
    return {name: parameters[name].detach() for name in names}


_BEFORE: Mapping[type[nn.Module], type[nn.Module]] = {
    SparseConv2d: nn.Conv2d,
    SparseLinear: nn.Linear,
    InnermostBatchNorm2d: nn.BatchNorm2d,
    NormReLU: nn.ReLU,
    InnermostConv2d: nn.Conv2d,
    **{ours: torchs for torchs, ours in _POOLING.items()},
}


def undo(model: nn.Module) -> None:
    """Give the modules of a prepared network their classes back."""
    for module in model.modules():
        if type(module) in _BEFORE:
            module.__class__ = _BEFORE[type(module)]
            for name in ("products_of", "backend", "kernels", "defers", "whole"):
                module.__dict__.pop(name, None)
