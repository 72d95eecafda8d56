"""Structures of many selection sets, each of which keeps the same number of its units: ``[S, U]``."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dist_sparse.sparsity.structures.base import Structure


class FanIn(Structure):
    """Constant fan-in: every output filter keeps the same number of its own weights, (O, I * kh * kw).

    The structure of SRigL (arXiv 2305.02299), without its removal of whole neurons.
    """

    layer_wide = False
    name = form = example = "fan_in"
    unit, competitors = "one weight", "output filter"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), -1, 1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


class KernelPerFilter(Structure):
    """Every output filter keeps the same number of its kernels, (O, I): MEST's connectivity (arXiv 2110.14032)."""

    layer_wide = False
    name = form = example = "kernel_per_filter"
    unit, competitors = "a kernel (kh x kw; of a linear layer one weight)", "output filter"

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), tensor.shape[1], -1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape)


@dataclass(frozen=True)
class NM(Structure):
    """N:M: n of every m consecutive input channels, at the same output channel and place of the kernel, (numel / m, m).

    A convolution's weight is taken as [O, kh, kw, I], so that groups lie along the inner dimension of its matrix product, as
    sparse tensor cores want them for 2:4 (Mishra et al., arXiv 2104.08378).
    """

    n: int
    m: int

    layer_wide: ClassVar[bool] = False
    name: ClassVar[str] = "nm"
    form: ClassVar[str] = "nm:N:M"
    example: ClassVar[str] = "nm:2:4"
    unit: ClassVar[str] = "one weight"
    competitors: ClassVar[str] = "group of 4 consecutive input channels, 2 of which are kept"

    @classmethod
    def parse(cls, argument: str | None) -> "NM":
        n, colon, m = (argument or "").partition(":")
        if not (colon and n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m)):
            raise ValueError("N and M are whole numbers, N at least 1 and M more than N")
        return cls(int(n), int(m))

    @property
    def density(self) -> float:
        return self.n / self.m

    def split(self, tensor: Tensor) -> Tensor:
        return tensor.movedim(1, -1).reshape(-1, self.m, 1)

    def merge(self, units: Tensor, shape: torch.Size) -> Tensor:
        return units.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)

    def misfit(self, shape: torch.Size) -> str | None:
        return f"{shape[1]} input channels do not divide by {self.m}" if shape[1] % self.m else None
