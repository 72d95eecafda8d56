"""Which structure goes with which method and distribution: what is refused, what follows, and a table of it."""

import dataclasses
import math

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.errors import UserError
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.structures import STRUCTURES, Structure, parse_structure


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


def table() -> str:
    """Every structure, and whether each method can have it, in Markdown; the reasons and conditions stand under it."""
    methods = {name: cls for name, cls in METHODS.items() if "structure" in cls.uses}
    reasons: list[str] = []

    def cell(method: type[Method], structure: Structure) -> str:
        refusal = method.refusal(structure)
        reason = refusal or method.condition(structure)
        if reason is None:
            return "yes"
        if reason not in reasons:
            reasons.append(reason)
        return f"{'no' if refusal else 'yes'} ({reasons.index(reason) + 1})"

    header = ["`sparsity.structure`", "a unit is", "and competes within its", *(f"`{name}`" for name in methods)]
    rows = [header, ["---"] * len(header)]
    for cls in STRUCTURES.values():
        structure = parse_structure(cls.example)
        cells = [cell(method, structure) for method in methods.values()]
        rows.append([f"`{cls.example}`", cls.unit, cls.competitors, *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *(f"\n({number}) {reason}" for number, reason in enumerate(reasons, start=1))])
