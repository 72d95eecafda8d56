"""What one rank holds of a model under DeepSpeed's ZeRO.

Stage 0 holds everything whole. Stages 1 and 2 hold all weights for the forward pass, and one part of the flat vector of each
parameter group as fp32 master, with gradient and optimizer state; the borders cut through parameters. Stage 3 cuts every
parameter into equal parts, for the forward pass too, where small parameters are kept whole as well.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dist_sparse.engines.shards import Piece, Shards


class ZeroShards(Shards):
    """Those of one of ZeRO's stages."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Any) -> None:
        """``optimizer`` is DeepSpeed's, around the one of the run."""
        super().__init__(parameters)
        self._optimizer = optimizer

    _offloads: bool = False

    def refresh_norms(self) -> None:
        """Let DeepSpeed know the gradients' norms as they are now: with offload it takes them during the backward."""
        for name, parameter in self._parameters.items() if self._offloads else ():
            if (piece := self.gradient(name)) is not None:
                self._optimizer.norm_for_param_grads[self._optimizer.get_param_id(parameter)] = piece.values.norm(2)


class WholeShards(ZeroShards):
    """Stage 0."""

    pieces_of = frozenset()

    def shape(self, name: str) -> torch.Size:
        return self._parameters[name].shape

    def master(self, name: str) -> Piece | None:
        return None

    def gradient(self, name: str) -> Piece | None:
        grad = self._parameters[name].grad
        return None if grad is None else Piece(0, grad.view(-1))

    def state(self, name: str) -> dict[str, Piece | None]:
        parameter = self._parameters[name]
        return {
            key: Piece(0, value.view(-1))
            for key, value in getattr(self._optimizer, "_base_optimizer", self._optimizer).state.get(parameter, {}).items()
            if isinstance(value, Tensor) and value.shape == parameter.shape
        }

    def forward(self, name: str) -> list[Piece]:
        return [Piece(0, self._parameters[name].detach().view(-1))]


class FlatShards(ZeroShards):
    """Stages 1 and 2. DeepSpeed links each parameter to its fragment of this rank's flat partition, if it has one."""

    pieces_of = frozenset({"gradients", "optimizer"})

    def shape(self, name: str) -> torch.Size:
        return self._parameters[name].shape

    def master(self, name: str) -> Piece | None:
        link: Any = getattr(self._parameters[name], "_hp_mapping", None)
        return None if link is None else Piece(link.lp_fragment_address.start, link.hp_fragment.detach())

    def gradient(self, name: str) -> Piece | None:
        parameter: Any = self._parameters[name]
        if parameter._hp_mapping is None:
            return None
        fragment = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return Piece(parameter._hp_mapping.lp_fragment_address.start, fragment.view(-1))

    def state(self, name: str) -> dict[str, Piece | None]:
        link: Any = getattr(self._parameters[name], "_hp_mapping", None)
        flat = self._partition_of(name)
        values = self._optimizer.optimizer.state.get(flat, {})
        keys = [key for key, value in values.items() if isinstance(value, Tensor) and value.shape == flat.shape]
        if link is None:
            return dict.fromkeys(keys)
        start, address = link.lp_fragment_address.start, link.hp_fragment_address
        return {key: Piece(start, values[key].narrow(0, address.start, address.numel)) for key in keys}

    def _partition_of(self, name: str) -> Tensor:
        for parameters, flat in zip(self._optimizer.bit16_groups, self._optimizer.single_partition_of_fp32_groups, strict=True):
            if any(each is self._parameters[name] for each in parameters):
                return flat
        raise AssertionError(f"{name} is not optimized")

    def forward(self, name: str) -> list[Piece]:
        return [Piece(0, self._parameters[name].detach().view(-1))]

    @property
    def _offloads(self) -> bool:
        return self._optimizer.cpu_offload


class CutShards(ZeroShards):
    """Stage 3."""

    pieces_of = frozenset({"weights", "gradients", "optimizer"})

    def shape(self, name: str) -> torch.Size:
        parameter: Any = self._parameters[name]
        return parameter.ds_shape

    def master(self, name: str) -> Piece | None:
        return self._piece(name, self._partition(name, None))

    def gradient(self, name: str) -> Piece | None:
        values, _ = self._optimizer._get_fp32_grad_state_partition(param=self._parameters[name], release_swap_buffers=False)
        return self._piece(name, values)

    def state(self, name: str) -> dict[str, Piece | None]:
        flat = self._optimizer.fp32_partitioned_groups_flat[self._group(name)]
        values = self._optimizer.optimizer.state.get(flat, {})
        keys = [key for key, value in values.items() if isinstance(value, Tensor) and value.shape == flat.shape]
        return {key: self._piece(name, self._partition(name, key)) for key in keys}

    def forward(self, name: str) -> list[Piece]:
        parameter: Any = self._parameters[name]
        part = self._piece(name, parameter.ds_tensor)
        pieces = [part] if part else []
        if self.is_whole(name):
            pieces.append(Piece(0, parameter.detach().view(-1)))
        return pieces

    def is_whole(self, name: str) -> bool:
        parameter: Any = self._parameters[name]
        return parameter.numel() == parameter.ds_numel

    def release(self) -> None:
        self._optimizer._partition_all_parameters()

    def _group(self, name: str) -> int:
        return self._optimizer.grad_position[self._optimizer.get_param_id(self._parameters[name])][0]

    def _partition(self, name: str, key: str | None) -> Tensor:
        values, _ = self._optimizer._get_fp32_opt_state_partition(
            self._parameters[name], release_swap_buffers=False, optim_state_key=key
        )
        return values.detach()

    def _piece(self, name: str, part: Tensor) -> Piece | None:
        """Without the padding at a parameter's end."""
        parameter: Any = self._parameters[name]
        start = parameter.ds_zero_partition_rank * parameter.ds_tensor.ds_numel
        length = min(parameter.ds_tensor.ds_numel, parameter.ds_numel - start)
        return Piece(start, part.detach().view(-1)[:length]) if length > 0 else None

    @property
    def _offloads(self) -> bool:
        return self._optimizer.offload_optimizer
