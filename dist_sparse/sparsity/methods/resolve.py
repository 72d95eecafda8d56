"""From what the user gave in the sparsity section to what a method uses: defaults filled in, contradictions refused."""

from collections.abc import Iterator, Mapping

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.config.tree import flat
from dist_sparse.errors import UserError, is_unknown
from dist_sparse.sparsity.methods import METHODS
from dist_sparse.sparsity.methods.base import Method
from dist_sparse.sparsity.methods.combinations import settle_structure
from dist_sparse.sparsity.methods.snip import chooses_over_all_layers


def resolve(config: SparsityConfig) -> SparsityConfig:
    """Fill in the method's own defaults.

    Raises:
        UserError: unknown method or structure, two that cannot go together, or a density that is missing or given twice.
    """
    method: type[Method] = _lookup("sparsity.method", config.method, METHODS)
    config = settle_structure(method.derive(config), method)
    if config.init == "checkpoint" and config.init not in method.inits:
        takers = ", ".join(name for name, each in METHODS.items() if config.init in each.inits)
        raise UserError(f"sparsity.init=checkpoint does not go with sparsity.method={config.method}, but with {takers}")
    if "density" in method.uses:
        _check_density(config, method)
    config = method.complete(config)
    if "update.removal" in method.acting(config):
        _check_removal(config)
    return config


def idle_keys(config: SparsityConfig) -> Iterator[tuple[str, str]]:
    """Keys of the section that do nothing as the others are, and why; ``config`` may be resolved or not.

    Raises:
        UserError: as :func:`resolve`.
    """
    config = resolve(config)
    uses, update = METHODS[config.method].acting(config), config.update
    for key, _ in flat(config, "sparsity."):
        name = key.removeprefix("sparsity.")
        if name != "method" and name not in uses:
            yield name, f"method {config.method} does not use it"
    if chooses_over_all_layers(config):
        for name in ("distribution", "er_power", "table"):
            yield name, "sparsity.init=snip chooses over all layers"
    if config.init == "checkpoint" and config.method != "mest":  # whose bounds are shared out
        for name in ("distribution", "er_power", "ramp.initial_density"):
            yield name, "the first masks are those of model.checkpoint"
    elif "ramp.initial_density" in uses and config.ramp.initial_density in (None, 1):
        for name in ("distribution", "er_power", "init"):
            yield name, f"method {config.method} begins dense, with sparsity.ramp.initial_density=1"
    if config.distribution not in ("er", "erk"):
        yield "er_power", f"distribution {config.distribution} does not use it"
    if update.growth != "gradient" and update.removal != "taylor":
        yield "update.gradient_steps", "neither growth nor removal goes by the gradient of a step"
    if update.removal == "threshold":
        for name in ("update.drop_fraction", "update.drop_schedule", "update.drop_floor"):
            yield name, "sparsity.update.removal is threshold"
    else:
        yield "update.removal_threshold", f"sparsity.update.removal is {update.removal}"
    if update.drop_schedule == "constant":
        yield "update.drop_floor", "sparsity.update.drop_schedule is constant"
    if len(config.ast.densities or config.ast.structures) == 1:
        for name in ("ast.offset", "ast.correction"):
            yield name, "there is one sub-net"


def _check_removal(config: SparsityConfig) -> None:
    if config.update.removal == "threshold" and config.update.removal_threshold is None:
        raise UserError("sparsity.update.removal=threshold needs sparsity.update.removal_threshold, such as 0.001")


def _check_density(config: SparsityConfig, method: type[Method]) -> None:
    if config.distribution == "table" and config.init == "checkpoint":
        raise UserError(
            "sparsity.distribution=table does not go with sparsity.init=checkpoint: the masks give every layer its density"
        )
    if config.distribution == "table" and "table" not in method.uses:
        raise UserError(
            f"sparsity.distribution=table does not go with method {config.method}, which comes down to sparsity.density"
        )
    if config.distribution == "table":
        if config.density is not None:
            raise UserError(
                "sparsity.density and sparsity.distribution=table exclude each other: the table gives every layer its density"
            )
        if not config.table:
            raise UserError("sparsity.distribution=table needs sparsity.table, such as {'*': 0.1}")
    elif config.density is None and not (config.init == "checkpoint" and method.keeps_density):
        raise UserError(f"sparsity.density is needed for method {config.method}: a number above 0 and up to 1, such as 0.1")
    elif config.table:
        raise UserError(f"sparsity.table needs sparsity.distribution=table, not {config.distribution}")


def _lookup(key: str, name: str, known: Mapping[str, type]) -> type:
    if name not in known:
        raise UserError(f"{key}={name!r} {is_unknown(name, known)}")
    return known[name]
