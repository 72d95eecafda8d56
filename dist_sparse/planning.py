"""From a configuration and a network to the plan of the masks, each rank for itself."""

from torch import nn

from dist_sparse.config import Config
from dist_sparse.data.clock import Clock
from dist_sparse.distributed import Ranks
from dist_sparse.errors import UserError
from dist_sparse.sparsity.layers import sparse_layers, weight_layers
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.plan import Plan


def plan_masks(config: Config, ranks: Ranks, model: nn.Module, clock: Clock) -> Plan:
    """What the method will do in a run of this length.

    Raises:
        UserError: what cannot be done with these layers or in this run.
    """
    facts = RunFacts(
        seed=config.seed,
        steps_per_epoch=clock.whole,
        total_steps=clock.total,
        rank=ranks.rank,
        world_size=ranks.world_size,
        device=ranks.device,
        classifier=next(reversed(weight_layers(model)), ""),
    )
    return plan_method(config.sparsity, _sparse_layers(config, model), facts)


def _sparse_layers(config: Config, model: nn.Module) -> dict[str, nn.Parameter]:
    try:
        return sparse_layers(model, config.sparsity.keep_dense)
    except ValueError as error:
        raise UserError(str(error)) from error
