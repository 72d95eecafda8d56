"""The order in which DDP sums gradients, made a function of the network alone.

DDP averages gradients in buckets, and where an entry lies in its bucket decides which rank's value a sum begins with. After
the first backward of a process it fills the buckets anew, in the order in which gradients came. So the first step of a resumed
run would sum in another order than the same step of a run that was never interrupted: with three ranks and more, other sums.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def settle_buckets(ddp: DistributedDataParallel) -> None:
    """Bring DDP's buckets to their final form before the first step: as if gradients came from the last parameter to the first.

    Costs two exchanges of zeros, and runs nothing of the network. Collective.
    """
    network = ddp.module
    ddp.module = _EveryParameter(network)
    zero = next(network.parameters()).new_zeros(())
    try:
        for _ in range(2):  # at the beginning of the second forward DDP fills its buckets anew, for good
            ddp(zero).backward(gradient=zero)
    finally:
        ddp.module = network
    for parameter in network.parameters():
        parameter.grad = None


class _EveryParameter(nn.Module):
    """In place of a network: its backward reaches the parameters one after the other, the last one first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network  # whose buffers DDP looks for

    def forward(self, start: Tensor) -> Tensor:
        used = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return torch.stack([start, *(parameter.sum() for parameter in used)]).sum()
