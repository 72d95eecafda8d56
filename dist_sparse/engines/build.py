"""The engine that ``engine.name`` asks for: what it can do, what it refuses, and the engine itself."""

from collections.abc import Iterator

from torch import nn
from torch.optim import Optimizer

from dist_sparse.config import Config
from dist_sparse.config.engine import EngineConfig
from dist_sparse.config.tree import flat
from dist_sparse.engines import ENGINES, NARROWING_ENGINES, PACKING_ENGINES
from dist_sparse.engines.base import Engine, Loss
from dist_sparse.engines.capabilities import Capabilities
from dist_sparse.engines.precision import Precision
from dist_sparse.errors import UserError, is_unknown
from dist_sparse.execution.packed_weights import PackedWeights


def resolve_engine(engine: EngineConfig) -> EngineConfig:
    """With the engine's own defaults filled in.

    Raises:
        UserError: there is no such engine, keys of another one are set, or something that its own keys name cannot be used.
    """
    if engine.name not in ENGINES:
        raise UserError(f"engine.name={engine.name!r} {is_unknown(engine.name, ENGINES)}")
    given = dict(flat(engine, "engine."))
    for key, default in flat(EngineConfig(), "engine."):
        owners = [name for name, kind in ENGINES.items() if key in kind.keys]
        if owners and engine.name not in owners and given[key] != default:
            raise UserError(f"{key}: acts with engine.name={' or '.join(owners)} only, and engine.name is {engine.name}")
    return ENGINES[engine.name].resolve(engine)


def capabilities_of(engine: EngineConfig) -> Capabilities:
    """What the engine can do. Of a section that is not resolved yet, what it can do by default."""
    return ENGINES[engine.name].capabilities(engine)


def check_engine(config: Config, world_size: int) -> None:
    """Refuse with a UserError what a resolved configuration asks for and the engine cannot do on so many ranks."""
    engine = config.engine
    if not capabilities_of(engine).packs_gradients and (engine.exchange == "masked" or engine.compress != "none"):
        raise UserError(
            f"engine.exchange=masked and engine.compress need an engine that packs gradients, such as engine.name=ddp; "
            f"engine.name={engine.name} exchanges in its own way"
        )
    if engine.exchange == "masked" and config.sparsity.method == "dense":
        raise UserError("engine.exchange=masked needs masks, and sparsity.method=dense has none: auto or dense")
    ENGINES[engine.name].check(config, world_size)


def check_installed(config: Config) -> None:
    """Refuse with a UserError an engine that is an extra of the package and is not here."""
    ENGINES[config.engine.name].check_installed()


def idle_keys(config: Config, world_size: int) -> Iterator[tuple[str, str]]:
    """Keys of the section ``engine`` that do nothing as the configuration is, and why."""
    if world_size == 1:
        for key in ("exchange", "compress", "timeout"):
            yield key, "there is one rank"
    if not capabilities_of(config.engine).packs_gradients:
        yield "exchange", f"engine.name={config.engine.name} exchanges in its own way"
    elif config.sparsity.method == "dense":
        yield "exchange", "sparsity.method=dense has no masks"
    elif config.execution.storage == "packed":
        yield "exchange", "execution.storage=packed has gradients of active weights alone"


def build_engine(
    config: Config,
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    precision: Precision,
    weights: PackedWeights | None = None,
) -> Engine:
    """As :meth:`.Engine.build`. Collective."""
    kinds = PACKING_ENGINES if weights is not None else NARROWING_ENGINES if config.execution.shrink else ENGINES
    return kinds[config.engine.name].build(config, model, optimizer, loss, precision, weights)
