"""Training with DeepSpeed's ZeRO, stages 0 to 3.

ZeRO steps a flat fp32 master copy and writes the model's weights anew from it: see :mod:`.sharded` for how masks reach both.
"""

import contextlib
import copy
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dist_sparse.config import Config
from dist_sparse.config.engine import EngineConfig
from dist_sparse.distributed import AgreedError, world_size
from dist_sparse.engines import zero_files
from dist_sparse.engines.base import Loss
from dist_sparse.engines.capabilities import Capabilities, Holding
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.sharded import ShardedEngine
from dist_sparse.engines.zero_process import borrowed_process
from dist_sparse.engines.zero_settings import DEFAULT_STAGE, deepspeed_settings, reason_of, resolve_zero
from dist_sparse.engines.zero_shards import CutShards, FlatShards, WholeShards, ZeroShards
from dist_sparse.errors import UserError
from dist_sparse.execution.packed_weights import PackedWeights
from dist_sparse.sparsity.access import Wanted
from dist_sparse.sparsity.masks import Masks

_SHOWN = -1
"""In place of a module's id: as long as it is among those that use a parameter, no module's own hook releases it."""
_SHARDED: tuple[frozenset[Holding], ...] = (
    frozenset(),
    frozenset({"optimizer"}),
    frozenset({"optimizer", "gradients"}),
    frozenset({"optimizer", "gradients", "weights"}),
)
"""What ranks hold only a part of, by stage."""


class DeepSpeedEngine(ShardedEngine):
    """One model under ZeRO. Gradients are averaged over ranks when the last micro-batch of a step has run backward."""

    name = "deepspeed"
    keys = frozenset({"engine.zero.stage", "engine.zero.offload", "engine.deepspeed_config"})

    @classmethod
    def resolve(cls, config: EngineConfig) -> EngineConfig:
        return resolve_zero(config)

    @classmethod
    def capabilities(cls, config: EngineConfig) -> Capabilities:
        stage = DEFAULT_STAGE if config.zero.stage is None else config.zero.stage
        return Capabilities(
            cause=f"engine.zero.stage={stage}",
            otherwise="engine.name=ddp or engine.zero.stage=0",
            flattens_weights=True,
            packs_weights=stage < 3,
            fixes_sizes=True,
            steps_pieces=stage > 0,
            counts_steps_once=stage > 0,
            fixed_world=stage > 0,
            sharded=_SHARDED[stage],
            copies_weights=stage > 0,  # at stage 3 as well, where DeepSpeed means not to
            offloads=config.zero.offload == "cpu",
        )

    @classmethod
    def check(cls, config: Config, world_size: int) -> None:
        deepspeed_settings(config, world_size)

    @classmethod
    def check_installed(cls) -> None:
        if importlib.util.find_spec("deepspeed") is None:
            raise UserError(
                "engine.name=deepspeed needs DeepSpeed, which is not installed here: pip install deepspeed ninja, or ddp"
            )

    @classmethod
    def build(
        cls,
        config: Config,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        precision: Precision,
        weights: PackedWeights | None = None,
    ) -> "DeepSpeedEngine":
        settings, accumulation = deepspeed_settings(config, world_size()), config.train.accumulation
        held: dict[str, Any] = {"precision": precision, "accumulation": accumulation, "settings": settings}
        if weights is not None:
            held["weights"] = weights
        return cls(model, optimizer, loss, **held)

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        *,
        precision: Precision,
        accumulation: int,
        settings: dict[str, Any],
    ) -> None:
        """As :meth:`build`.

        Args:
            settings: DeepSpeed's configuration, complete (see :mod:`.zero_settings`).
        """
        super().__init__(model, optimizer, loss, precision=precision, accumulation=accumulation)
        self._skipping = False
        self._gate_steps()
        with borrowed_process(precision.device.type) as borrowed:
            self._deepspeed = _initialize(model, optimizer, settings)
            self._borrowed = borrowed.pop_all()
        stage = settings["zero_optimization"]["stage"]
        self._shares_gradients = "gradients" in _SHARDED[stage]
        kind = (WholeShards, FlatShards, FlatShards, CutShards)[stage]
        self.held_back = False if stage > 0 else None
        self._shards: ZeroShards = kind(self._parameters, self._deepspeed.optimizer)

    def _gate_steps(self) -> None:
        """Let :meth:`step` hold back the optimizer alone, while DeepSpeed keeps its books as after any step."""
        step: Callable[..., Any] = self._optimizer.step

        def gated(*arguments: Any, **keywords: Any) -> Any:
            return None if self._skipping else step(*arguments, **keywords)

        setattr(self._optimizer, "step", gated)  # noqa: B010

    def close(self) -> None:
        self._borrowed.close()

    def forward_backward(
        self, images: Tensor, targets: Tensor, gradient_masks: Masks | None = None, wanted: Wanted | None = None
    ) -> Tensor:
        del gradient_masks  # whole gradients are exchanged, whatever the step uses of them
        self._count_micro_batch()
        logits = self._deepspeed(self.precision.place_images(images))
        with self.precision.autocast():
            loss = self._loss(logits, targets)
        self._deepspeed.backward(loss * self._scale.value if self._scale.enabled else loss)
        if not self.at_step_boundary:
            self._deepspeed.step()  # counts the micro-batch
        elif self._scale.enabled:
            self._unscale()  # unlike DeepSpeed's own scaler under autocast, which asks each rank about its part alone
        return loss.detach()

    def step(self, *, skip: bool) -> None:
        self._shards.refresh_norms()
        self._skipping = skip
        self._deepspeed.step()
        self._skipping = False
        if self.held_back is not None:
            self.held_back = not self._deepspeed.was_step_applied()
        self._end_step()

    @contextlib.contextmanager
    def full_parameters(self) -> Iterator[None]:
        """As for every engine; at stage 3 DeepSpeed is kept from releasing what it gathers after a module's forward."""
        if "weights" not in self._shards.pieces_of:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        parameters: list[Any] = list(self._parameters.values())
        with GatheredParameters(parameters):
            for parameter in parameters:
                parameter.ds_active_sub_modules.add(_SHOWN)
            try:
                yield
            finally:
                for parameter in parameters:
                    parameter.ds_active_sub_modules.discard(_SHOWN)

    def gradient_bytes(self) -> int:
        if not self._shares_gradients:
            return super().gradient_bytes()
        pieces = [(weight, self._shards.master(name)) for name, weight in self._parameters.items()]
        return sum(piece.values.numel() * weight.element_size() for weight, piece in pieces if piece is not None)

    def state_dict(self) -> dict[str, Any]:
        groups = [{"lr": float(group["lr"])} for group in self._optimizer.param_groups]
        return {
            "state_dict": self._weights(),
            "optimizer": {"param_groups": groups},  # its state is among the shards
            "scaler": self._scale.state_dict(),
        }

    def save_shards(self, folder: Path) -> dict[str, Any]:
        return zero_files.save(self._deepspeed, folder)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        zero_files.load(self._deepspeed, Path(state["shards"]))
        self._scale.load_state_dict(state["scaler"])


def _initialize(model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> Any:
    """DeepSpeed's engine on the present process group. It changes the process: see :mod:`.zero_process`."""
    import deepspeed

    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    try:
        deepspeed.DeepSpeedConfig(copy.deepcopy(settings))
    except ValueError as error:  # of a value in the user's file; the same on all ranks
        raise AgreedError(f"engine.deepspeed_config: {reason_of(error)}") from error
    engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)[0]
    # Each rank's scaler would look at its own part only, and skip steps alone: ours stands in for it.
    engine.torch_autocast_z0_gradscaler = None
    if hasattr(engine.optimizer, "torch_autocast_gradscaler"):
        engine.optimizer.torch_autocast_gradscaler = None
    return engine
