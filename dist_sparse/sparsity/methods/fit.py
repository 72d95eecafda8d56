"""Whether a structure fits the layers of a model."""

import logging
from collections.abc import Mapping
from fractions import Fraction

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.distributions import Densities, Shapes
from dist_sparse.sparsity.schedules import share_of
from dist_sparse.sparsity.structures import Structure

_log = logging.getLogger(__name__)

_ROUNDING = 0.02
"""Relative difference between the density asked for and the one in whole units that is worth a warning."""


def check_fit(config: SparsityConfig, structure: Structure, shapes: Shapes) -> None:
    """Check that the structure fits every layer.

    Raises:
        UserError: names the layers that it does not fit, and the value of ``keep_dense`` that would leave them out.
    """
    misfits = {name: reason for name, shape in shapes.items() if (reason := structure.misfit(shape))}
    if not misfits:
        return
    if len(misfits) == len(shapes):
        name, reason = next(iter(misfits.items()))
        raise UserError(f"sparsity.structure={config.structure} fits none of the sparse layers; {name}, for one: {reason}")
    reasons = [f"{name}: {reason}" for name, reason in misfits.items()]
    more = [f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []
    raise UserError(
        f"sparsity.structure={config.structure} does not fit every layer ({'; '.join(reasons[:3] + more)}); "
        f"sparsity.keep_dense=[{', '.join([*config.keep_dense, *misfits])}] leaves these dense"
    )


def warn_of_rounding(
    config: SparsityConfig, structure: Structure, shapes: Shapes, densities: Densities, units: Mapping[str, int]
) -> None:
    """Warn if whole units, ``units`` in every selection set of a layer, are not near the density that was asked for."""
    wanted = sum(densities[name] * shape.numel() for name, shape in shapes.items())
    active = 0
    for name, shape in shapes.items():
        sets, _, size = structure.counts(shape)
        active += units[name] * sets * size
    if abs(active - wanted) > _ROUNDING * wanted:
        total = sum(shape.numel() for shape in shapes.values())
        _log.warning(
            "whole units of structure %s make the density %.4f instead of %.4f",
            config.structure,
            active / total,
            wanted / total,
        )


def check_units_of_all_layers(config: SparsityConfig, structure: Structure, shapes: Shapes) -> int:
    """How many weights of all layers together the density keeps, in units that are chosen over all layers.

    Units are taken from the best on while they fit, so that the last of them may find too little room: a warning where that
    is much.

    Raises:
        UserError: the largest unit holds more than that.
    """
    density, total = config.density, sum(shape.numel() for shape in shapes.values())
    assert density is not None, "no table, where all layers are compared"
    keep, largest = share_of(Fraction(str(density)), total), max(structure.counts(shape)[2] for shape in shapes.values())
    if keep < largest:
        raise UserError(
            f"sparsity.density={density:g} cannot be reached: all layers together would keep {keep} weights, and the "
            f"largest unit of structure {config.structure} has {largest}"
        )
    if largest - 1 > _ROUNDING * keep:
        _log.warning(
            "whole units of structure %s, up to %d weights each, may end at any density from %.4f to %.4f",
            config.structure,
            largest,
            (keep - largest + 1) / total,
            keep / total,
        )
    return keep
