"""A look at whether a backend computes what it should on this machine, before a run relies on it."""

import torch
import torch.nn.functional as F
from torch import Size

from dist_sparse.errors import one_line
from dist_sparse.execution.backends import Backend
from dist_sparse.execution.compiling import NoKernels
from dist_sparse.execution.convolution import StepProducts, convolve
from dist_sparse.execution.geometry import Geometry
from dist_sparse.execution.ways import LayerMask, Way

_ERROR = 1e-5


def check(backend: Backend) -> None:
    """Compute a layer in every way, forward and backward, and compare with torch on the CPU, which rounds no factors.

    Raises:
        NoKernels: a result differs, or there is none.
    """
    for way in backend.ways.values():
        try:
            right = _is_right(way, backend.device)
        except Exception as error:  # of any kind: another library's compiler may be behind it
            raise NoKernels(f"the {backend.name} kernels fail on this machine ({one_line(error)[:200]})") from error
        if not right:
            raise NoKernels(f"the {backend.name} kernels compute wrong results on this machine ({way.name})")


def _is_right(way: Way, device: str) -> bool:
    generator = torch.Generator().manual_seed(0)
    geometry = Geometry(
        channels_in=8, channels_out=16, kernel=(3, 3), stride=(2, 1), padding=(1, 1), dilation=(1, 1), size=(7, 9), samples=36
    )
    shape = Size([16, 8, 3, 3])
    mask = way.example(shape, 0.3, generator)
    products = way.products(LayerMask.of(mask.to(device)), geometry, torch.float32.itemsize)
    images = torch.randn(geometry.samples, geometry.channels_in, *geometry.size, generator=generator).requires_grad_()
    weight = (torch.randn(shape, generator=generator) * mask).requires_grad_()
    ours = convolve(images.to(device), weight.to(device), StepProducts(products, products)).cpu()
    torchs = F.conv2d(images, weight, stride=geometry.stride, padding=geometry.padding)
    gradient = torch.randn(torchs.shape, generator=generator)
    (of_images, of_weight), (expected, dense) = (torch.autograd.grad(out, (images, weight), gradient) for out in (ours, torchs))
    compared = (ours, torchs), (of_images, expected), (of_weight * mask, dense * mask)
    return all(float((mine - its).detach().norm()) <= _ERROR * float(its.detach().norm()) for mine, its in compared)
