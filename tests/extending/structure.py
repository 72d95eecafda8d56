"""A structure in one file: rows of kernels."""

from torch import Size, Tensor

from dist_sparse.sparsity.structures.base import Structure


class KernelRow(Structure):
    """One row of one kernel, ``w[o, i, y]``, or one entry of a matrix: ``[1, O I height, width]``."""

    name = form = example = "kernel_row"
    unit, competitors = "a row of a kernel", "layer"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1, tensor.shape[-1] if tensor.dim() > 2 else 1)

    def merge(self, units: Tensor, shape: Size) -> Tensor:
        return units.reshape(shape)
