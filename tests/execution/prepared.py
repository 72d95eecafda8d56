"""Networks that compute sparsely, for tests."""

from torch import Tensor, nn

from dist_sparse.execution.backends import Backend, compiled_backend
from dist_sparse.execution.choose import Sparsest
from dist_sparse.execution.current import Current
from dist_sparse.execution.kernels import kernels
from dist_sparse.execution.layers import layers_of
from dist_sparse.execution.prepare import prepare
from dist_sparse.sparsity.masks import Masks


def compute_sparsely(model: nn.Module, masks: Masks, images: Tensor, backend: Backend | None = None) -> Current:
    """Change a network so that all its masked layers that qualify compute sparsely, by default by the compiled kernels."""
    backend = backend or compiled_backend(kernels())
    current = Current(backend, masks, Sparsest(backend, layers_of(model, masks, images.shape)))
    prepare(model, current, images)
    return current
