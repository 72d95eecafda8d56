"""Batch norms and ReLUs of a network that computes sparsely. By name and by state they are what they were."""

import torch
from torch import Tensor, nn

from dist_sparse.execution.deferred import DeferredNorm
from dist_sparse.execution.kernels import Kernels, takes
from dist_sparse.execution.norms import batch_norm, batch_statistics


class InnermostBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that keeps tensors with samples innermost as they are.

    If a ReLU is known to follow, the result is a :class:`.deferred.DeferredNorm`, which that ReLU computes.
    """

    kernels: Kernels
    defers: bool = False

    def forward(self, input: Tensor) -> Tensor:
        if not takes(input) or self.weight is None:
            return super().forward(input)
        weight, bias = self.weight, self.bias
        of_batch = self.training or self.running_mean is None
        statistics = batch_statistics(self.kernels, input) if of_batch else self._running()
        if self.training and self.track_running_stats:
            self._update(statistics, input.numel() // input.shape[1])

        def compute(residual: Tensor | None, relu: bool) -> Tensor:
            how = {"of_batch": of_batch, "eps": self.eps, "relu": relu, "residual": residual}
            return batch_norm(self.kernels, input, weight, bias, statistics, **how)

        return DeferredNorm(compute, input) if self.defers else compute(None, False)  # pyright: ignore[reportReturnType]

    def _running(self) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        return torch.stack([self.running_mean, self.running_var]).double()

    def _update(self, used: Tensor, count: int) -> None:
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(used[0].to(self.running_mean.dtype), factor)
        self.running_var.lerp_((used[1] * count / max(1, count - 1)).to(self.running_var.dtype), factor)


class NormReLU(nn.ReLU):
    """A ReLU that computes the batch norm before it, if that has waited for it."""

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, DeferredNorm):
            return input.with_relu(inplace=self.inplace)
        return super().forward(input)
