"""Networks whose norms and biases are far from their initial values, and random masks for them."""

import timm
import torch
from torch import Tensor, nn

import dist_sparse.models  # noqa: F401 (registers its families)
from dist_sparse.sparsity.layers import weight_layers
from dist_sparse.sparsity.structures import Structure


def network(name: str, **kwargs: object) -> nn.Module:
    """A network in double precision and evaluation mode."""
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, **{"num_classes": 10, **kwargs})
    return randomised(model, generator).double().eval()


def randomised(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Biases and running means around 0, scales and variances around 1."""
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
            elif tensor.dim() == 1 or key.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def random_masks(model: nn.Module, structure: Structure, density: float = 0.5, last: bool = False) -> dict[str, Tensor]:
    """Masks of all layers that the structure fits, the last one dense unless ``last``."""
    generator = torch.Generator().manual_seed(5)
    masks = {}
    layers = weight_layers(model)
    for name, weight in list(layers.items())[: None if last else -1]:
        if structure.misfit(weight.shape) is None:
            sets, units, size = structure.split(weight.detach()).shape
            kept = torch.rand(sets, units, generator=generator).argsort(1) < max(1, round(units * density))
            masks[name] = structure.merge(kept[..., None].expand(-1, -1, size), weight.shape).contiguous()
    return masks


def masked(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """The same network with its inactive weights 0, in place."""
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
    return model


def images(side: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
