"""From a configuration and a network to the plan of the masks, each rank for itself."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from dist_sparse.config import Config
from dist_sparse.data.clock import Clock
from dist_sparse.distributed import Ranks
from dist_sparse.errors import UserError
from dist_sparse.sparsity.layers import sparse_layers, standardised, weight_layers
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.build import plan_method
from dist_sparse.sparsity.methods.carried import Carried
from dist_sparse.sparsity.methods.context import RunFacts
from dist_sparse.sparsity.methods.plan import Plan
from dist_sparse.starting import masks_to_start_from

_log = logging.getLogger(__name__)

_TOLERANCE = 0.02
"""Relative difference between the density asked for and that of masks which are taken over."""


def plan_masks(config: Config, ranks: Ranks, model: nn.Module, clock: Clock, saved: Mapping[str, Any] | None = None) -> Plan:
    """What the method will do in a run of this length, which goes on from a ``saved`` state if there is one.

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
    layers = _sparse_layers(config, model)
    plan = plan_method(config.sparsity, layers, facts, _carried(config, model, layers, saved))
    if saved is None:
        _warn_of_random_masks(config, plan)
    return plan


def _sparse_layers(config: Config, model: nn.Module) -> dict[str, nn.Parameter]:
    try:
        layers = sparse_layers(model, config.sparsity.keep_dense)
    except ValueError as error:
        raise UserError(str(error)) from error
    if "keep_dense" in METHODS[config.sparsity.method].uses:
        _check_standardised(config, layers, standardised(model, layers))
    return layers


def _check_standardised(config: Config, layers: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Refuse with a UserError to mask layers, these of ``layers``, whose weights do not stay 0 on their way to the forward."""
    if not names:
        return
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    if len(names) < len(layers):
        way_out = f"sparsity.keep_dense=[{', '.join([*config.sparsity.keep_dense, *names])}] leaves these dense"
    else:
        way_out = "no other layer is left to be sparse; sparsity.method=dense trains it"
    raise UserError(
        f"model.name={config.model.name} standardises weights, which makes its inactive ones other than 0 "
        f"({', '.join(names[:3])}{more}); {way_out}"
    )


def _warn_of_random_masks(config: Config, plan: Plan) -> None:
    """Tell of trained weights most of which the first masks would zero without looking at them."""
    is_trained = config.model.pretrained or config.model.checkpoint is not None
    are_drawn = config.sparsity.init == "random" and "random" in plan.method.inits
    if is_trained and are_drawn and any(density < 1 for density in plan.initial_densities.values()):
        _log.warning(
            "random masks zero trained weights, large ones too: sparsity.init=magnitude keeps the largest, and checkpoint the "
            "masks that a sparse network has"
        )


def _carried(config: Config, model: nn.Module, layers: Mapping[str, Tensor], saved: Mapping[str, Any] | None) -> Carried | None:
    """The first masks, where ``sparsity.init=checkpoint`` takes them over; of a run that goes on how many weights they had."""
    sparsity, shapes = config.sparsity, {name: weight.shape for name, weight in layers.items()}
    if sparsity.init != "checkpoint":
        return None
    if saved is not None:
        return Carried.from_state(saved.get("method"), shapes)
    if config.model.checkpoint is None:
        raise UserError("sparsity.init=checkpoint needs model.checkpoint: the folder of a run, or a file of sparse weights")
    carried = Carried.from_file(masks_to_start_from(config.model, model, layers), sparsity.structure)
    density = carried.density(shapes)
    asked = sparsity.density if METHODS[sparsity.method].keeps_density else None
    if asked is not None and not math.isclose(density, asked, rel_tol=_TOLERANCE):
        raise UserError(
            f"sparsity.density={asked:g} contradicts sparsity.init=checkpoint, whose masks have density {density:.4g}: leave "
            "sparsity.density out; granet and gmp prune to a lower one"
        )
    return carried
