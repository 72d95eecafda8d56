"""Layers that others compute by active weights alone: torch's own CSR matrices, and SparseProp where it is installed.

SparseProp (Nikdan et al., ICML 2023) is on PyPI: ``pip install sparseprop`` builds it with the machine's compiler.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class _CsrProduct(torch.autograd.Function):
    """``weight @ columns``; the weight's gradient is computed for its entries only, which torch's own autograd does not."""

    @staticmethod
    def forward(ctx, values: Tensor, columns: Tensor, weight: Tensor, transposed: Tensor) -> Tensor:
        ctx.save_for_backward(columns)
        ctx.weight, ctx.transposed = weight, transposed
        return weight @ columns

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (columns,) = ctx.saved_tensors
        of_weight = torch.sparse.sampled_addmm(ctx.weight, gradient, columns.T.contiguous(), beta=0)
        return of_weight.values(), ctx.transposed @ gradient, None, None


class CsrLayer(nn.Module):
    """A linear layer, or a 1x1 convolution of stride 1, as a product with a CSR matrix of its active weights."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        matrix = layer.weight.detach().flatten(1)
        self.weight, self.transposed = matrix.to_sparse_csr(), matrix.T.contiguous().to_sparse_csr()
        self.values = nn.Parameter(self.weight.values().clone())

    def forward(self, images: Tensor) -> Tensor:
        channel = 1 if images.dim() == 4 else -1
        moved = images.movedim(channel, 0)
        out = _CsrProduct.apply(self.values, moved.flatten(1).contiguous(), self.weight, self.transposed)
        assert out is not None
        return out.view(-1, *moved.shape[1:]).movedim(0, channel)


def _csr(layer: nn.Linear | nn.Conv2d) -> nn.Module | None:
    plain = isinstance(layer, nn.Linear) or (layer.kernel_size == (1, 1) and layer.stride == (1, 1))
    return CsrLayer(layer) if plain else None


def _sparseprop(layer: nn.Linear | nn.Conv2d, *, over_outputs: bool = False) -> nn.Module | None:
    try:
        from sparseprop.modules import SparseConv2d, SparseLinear  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    if isinstance(layer, nn.Linear):
        return None if over_outputs else SparseLinear(layer.weight.detach())
    weight = layer.weight.detach().contiguous()
    if layer.stride[0] > 2:
        return None
    return SparseConv2d(weight, padding=layer.padding[0], stride=layer.stride[0], vectorizing_over_on=over_outputs)


PEERS: Mapping[str, Callable[[nn.Linear | nn.Conv2d], nn.Module | None]] = {
    "torch CSR": _csr,
    "SparseProp": _sparseprop,
    "SparseProp over outputs": lambda layer: _sparseprop(layer, over_outputs=True),
}
"""By name, what makes a layer of theirs from a dense one whose inactive weights are 0; None where they have none."""
