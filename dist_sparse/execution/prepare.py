"""Making a network compute sparsely: its modules' classes change, and with them their forward; nothing else does."""

from collections.abc import Iterable, Mapping
from typing import cast

from torch import Tensor, nn

from dist_sparse.execution.current import Current, LayerProducts
from dist_sparse.execution.fusion import norms_before_relu
from dist_sparse.execution.modules import DenseLayer, SparseConv2d, SparseLinear, make_sparse, qualifies
from dist_sparse.execution.norm_modules import InnermostBatchNorm2d, NormReLU


def qualifying(model: nn.Module, names: Iterable[str]) -> dict[str, DenseLayer]:
    """The layers, by the names of their weights, that sparse ways can compute."""
    modules = dict(model.named_modules())
    layers = {name: modules[name.removesuffix("weight").removesuffix(".")] for name in names}
    return {name: cast(DenseLayer, module) for name, module in layers.items() if qualifies(module)}


def prepare(model: nn.Module, current: Current, images: Tensor | None) -> None:
    """Let the masked layers of a network compute as ``current`` has it, and its batch norms keep the memory format of that.

    Nothing but classes of modules changes, and what they keep beside parameters and buffers: names, state and hooks stay.

    Args:
        images: [B, C, H, W], of a size that the network takes, to watch a forward pass of and find the ReLUs that batch norms
            can do; None if something may come between them, so that none can.
    """
    modules, kernels = dict(model.named_modules()), current.backend.kernels
    fused = set() if kernels is None or images is None else norms_before_relu(model, images)
    for name, module in qualifying(model, current.masks.names).items():
        make_sparse(module, current.backend, LayerProducts(current, name, module.weight.element_size()))
    if kernels is None:
        return
    for name, module in modules.items():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = InnermostBatchNorm2d
            assert isinstance(module, InnermostBatchNorm2d)
            module.kernels, module.defers = kernels, name in fused
        elif type(module) is nn.ReLU:
            module.__class__ = NormReLU


def lay_out(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """Bring weights into the order of memory in which sparse layers read them; returns those of ``names``, by name.

    To be called before an optimizer has state, or an engine holds the model.
    """
    parameters = dict(model.named_parameters())
    for module in model.modules():
        if isinstance(module, SparseConv2d):
            module.weight.data = module.weight.data.contiguous()
    return {name: parameters[name].detach() for name in names}


_BEFORE: Mapping[type[nn.Module], type[nn.Module]] = {
    SparseConv2d: nn.Conv2d,
    SparseLinear: nn.Linear,
    InnermostBatchNorm2d: nn.BatchNorm2d,
    NormReLU: nn.ReLU,
}


def undo(model: nn.Module) -> None:
    """Give the modules of a prepared network their classes back."""
    for module in model.modules():
        if type(module) in _BEFORE:
            module.__class__ = _BEFORE[type(module)]
            for name in ("products_of", "backend", "kernels", "defers"):
                module.__dict__.pop(name, None)
