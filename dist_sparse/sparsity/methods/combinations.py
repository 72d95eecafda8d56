"""Which structure goes with which method, distribution and layer: what is refused, what follows, and a table of it."""

import dataclasses
import logging
import math
from collections.abc import Mapping

from dist_sparse.config.schema import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.distributions import Densities, Shapes
from dist_sparse.sparsity.method import Method
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.structures import STRUCTURES, Structure, parse_structure

_log = logging.getLogger(__name__)

_ROUNDING = 0.02
"""Relative difference between the density asked for and the one in whole units that is worth a warning."""


def settle_structure(config: SparsityConfig, method: type[Method]) -> SparsityConfig:
    """Check the structure against method and distribution, and fill in the distribution and, for N:M, the density.

    Raises:
        UserError: an unknown structure, or one that cannot go with the rest.
    """
    try:
        structure = parse_structure(config.structure)
    except ValueError as error:
        raise UserError(f"sparsity.structure={error}") from error
    if "structure" not in method.uses:
        return config
    if reason := method.refusal(structure):
        raise UserError(f"sparsity.structure={config.structure} cannot go with sparsity.method={config.method}: {reason}")
    shared_out = "distribution" in method.uses
    if structure.density is None:
        return dataclasses.replace(config, distribution=config.distribution or "erk") if shared_out else config
    if shared_out and config.distribution not in (None, "uniform"):
        raise UserError(
            f"sparsity.structure={config.structure} cannot go with sparsity.distribution={config.distribution}: it gives every "
            f"layer density {structure.density:g}; leave sparsity.distribution out"
        )
    if config.density is not None and not math.isclose(config.density, structure.density, rel_tol=2e-3):
        raise UserError(
            f"sparsity.density={config.density:g} contradicts sparsity.structure={config.structure}, which is density "
            f"{structure.density:g}: leave sparsity.density out"
        )
    return dataclasses.replace(config, distribution="uniform" if shared_out else config.distribution, density=structure.density)


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


def table() -> str:
    """Every structure, and whether each method can have it, in Markdown; the reasons for a no stand under the table."""
    methods = {name: cls for name, cls in METHODS.items() if "structure" in cls.uses}
    reasons: list[str] = []

    def cell(method: type[Method], structure: Structure) -> str:
        reason = method.refusal(structure)
        if reason is None:
            return "yes"
        if reason not in reasons:
            reasons.append(reason)
        return f"no ({reasons.index(reason) + 1})"

    header = ["`sparsity.structure`", "a unit is", "and competes within its", *(f"`{name}`" for name in methods)]
    rows = [header, ["---"] * len(header)]
    for cls in STRUCTURES.values():
        structure = parse_structure(cls.example)
        cells = [cell(method, structure) for method in methods.values()]
        rows.append([f"`{cls.example}`", cls.unit, cls.competitors, *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *(f"\n({number}) {reason}" for number, reason in enumerate(reasons, start=1))])
