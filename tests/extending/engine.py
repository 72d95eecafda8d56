"""An engine in one file: data parallel training without DDP, whose gradients are averaged once all are there."""

import torch.distributed as dist
from torch import Tensor

from dist_sparse.config.engine import EngineConfig
from dist_sparse.distributed import world_size
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.masks import Masks


class PlainEngine(DDPEngine):
    """One all-reduce a parameter, after the last backward pass of a step."""

    name = "plain"

    @classmethod
    def capabilities(cls, config: EngineConfig) -> Capabilities:
        return Capabilities(cause="engine.name=plain")

    def _wrap(self) -> None:
        self.exchange, self._forward = None, self.model

    def describe_exchange(self, gradient_masks: Masks | None) -> str:
        return "a parameter at a time"

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        self._count_micro_batch()
        with self.precision.autocast():
            loss = self._loss(self._forward(self.precision.place_images(images)), targets)
        self._scaler.scale(loss / self._accumulation).backward()
        if self.at_step_boundary:
            for parameter in self._parameters.values():
                if parameter.grad is not None and world_size() > 1:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= world_size()
            self._scaler.unscale_(self._optimizer)
        return loss.detach()
