"""The engine that ``engine.name`` asks for."""

import importlib.util
from collections.abc import Iterator

from torch import nn
from torch.optim import Optimizer

from dist_sparse import distributed
from dist_sparse.config import Config
from dist_sparse.engines.base import Engine, Loss
from dist_sparse.engines.ddp import DDPEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.zero_settings import deepspeed_settings
from dist_sparse.errors import UserError


def check_engine(config: Config) -> None:
    """Refuse with a UserError what the section asks for and cannot be."""
    engine = config.engine
    if engine.name != "ddp" and (engine.exchange == "masked" or engine.compress != "none"):
        raise UserError(
            f"engine.exchange=masked and engine.compress are ddp's; engine.name={engine.name} exchanges in its own way"
        )
    if engine.exchange == "masked" and config.sparsity.method == "dense":
        raise UserError("engine.exchange=masked needs masks, and sparsity.method=dense has none: auto or dense")


def idle_keys(config: Config, world_size: int) -> Iterator[tuple[str, str]]:
    """Keys of the section ``engine`` that do nothing as the configuration is, and why."""
    if world_size == 1:
        for key in ("exchange", "compress", "timeout"):
            yield key, "there is one rank"
    if config.engine.name != "ddp":
        yield "exchange", f"engine.name={config.engine.name} exchanges in its own way"
    elif config.sparsity.method == "dense":
        yield "exchange", "sparsity.method=dense has no masks"


def check_installed(config: Config) -> None:
    """Refuse with a UserError an engine that is an extra of the package and is not here."""
    if config.engine.name == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "engine.name=deepspeed needs DeepSpeed, which is not installed here: pip install deepspeed ninja, or ddp"
        )


def build_engine(config: Config, model: nn.Module, optimizer: Optimizer, loss: Loss, precision: Precision) -> Engine:
    """``model`` is already placed by ``precision``, and ``optimizer`` holds its parameters. Collective."""
    if config.engine.name == "deepspeed":
        from dist_sparse.engines.deepspeed import DeepSpeedEngine

        return DeepSpeedEngine(
            model,
            optimizer,
            loss,
            precision=precision,
            accumulation=config.train.accumulation,
            settings=deepspeed_settings(config, distributed.world_size()),
        )
    return DDPEngine(
        model,
        optimizer,
        loss,
        precision=precision,
        accumulation=config.train.accumulation,
        clip_norm=config.train.clip_norm,
        compile=config.train.compile,
        exchange=config.engine.exchange,
        compress=config.engine.compress,
    )
