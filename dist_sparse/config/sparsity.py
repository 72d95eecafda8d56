"""The section ``sparsity``: every key with its meaning, unit, bounds and default (see :mod:`dist_sparse.config.schema`).

Method defaults that differ from paper to paper are ``None`` here and filled in by the method (see ``sparsity/methods``).
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from dist_sparse.config.duration import Duration, Interval
from dist_sparse.config.numbers import STRICT, Count, Density, Fraction, Natural, NonNegative


@dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    __pydantic_config__ = STRICT

    form: Literal["original", "itop"] = "original"
    """`original`: the update replaces the optimizer step (RigL). `itop`: it follows the step, to the end of the run."""
    interval: Interval | None = None
    """Length between two mask updates. Default: the method's."""
    drop_fraction: Fraction | None = None
    """Fraction of a layer's active units that the first update drops and grows again. Default: the method's."""
    drop_schedule: Literal["cosine", "linear", "constant"] | None = None
    """How the drop fraction moves from `drop_fraction` to `drop_floor`. Default: the method's."""
    drop_floor: Fraction | None = None
    """Drop fraction at the end of the schedule. Default: the method's."""
    end: Duration | None = None
    """When the masks stop moving. Default: the method's."""
    gradient_steps: Count = 1
    """Steps, up to and with the update, over which the gradient that scores growth or removal is averaged."""
    growth: Literal["gradient", "random", "momentum", "random_unfired"] | None = None
    """Which inactive units grow: largest gradient or average gradient (momentum), any, or never active ones first."""
    removal: Literal["magnitude", "set", "threshold", "taylor"] = "magnitude"
    """Which units drop: smallest, smallest of each sign (set), below a threshold, or smallest |weight * gradient| (taylor)."""
    removal_threshold: NonNegative | None = None
    """Units smaller than this drop, and as many grow, whatever `drop_fraction` says (`removal: threshold`)."""
    redistribution: Literal["none", "magnitude", "momentum", "nonzeros"] | None = None
    """What layers share the dropped units in proportion to; none: each grows its own again. Default: the method's."""


@dataclass(frozen=True, kw_only=True)
class RampConfig:
    __pydantic_config__ = STRICT

    initial_density: Density | None = None
    """Density at the start; `sparsity.density` is that of the end. Default: 1, dense."""
    start: Duration | None = None
    """When pruning begins. Default: at once."""
    end: Duration | None = None
    """When the density has come down to `sparsity.density`. Default: the method's."""


@dataclass(frozen=True, kw_only=True)
class MestConfig:
    __pydantic_config__ = STRICT

    keep: list[Density] = field(default_factory=list)
    """Overall density that a mutation keeps, by phase: 1 - the reference's lower bounds. Default: 0.8, 0.9 and 1 times the
    density (EM), or with `grow_to` given the density (EM&S)."""
    grow_to: list[Density] = field(default_factory=list)
    """Overall density that a mutation grows to, by phase: 1 - the reference's upper bounds. Default: the density."""
    decay: list[Duration] | None = None
    """When the second phase begins, the third and so on. Default for three phases: 56.25% and 75% of the run."""
    removal_gradient: NonNegative = 0.0
    """Lambda of the removal score |w| + lambda |g|."""


@dataclass(frozen=True, kw_only=True)
class ShuffledBlockConfig:
    __pydantic_config__ = STRICT

    dynamic: bool = True
    """Blocks move (DSB); if not, they are those of the largest initial weights throughout (SSB)."""
    size: Natural = 16
    """Rows and columns of a block. 0: no blocks, which is RigL, or static masks if not dynamic."""


@dataclass(frozen=True, kw_only=True)
class AstConfig:
    __pydantic_config__ = STRICT

    densities: list[Density] = field(default_factory=list)
    """Densities of the sub-nets, each lower than the one before, such as `[0.1, 0.05, 0.02]`; one makes one sub-net."""
    structures: list[str] = field(default_factory=list)
    """N:M structures of the sub-nets instead, each sparser than the one before, such as `[nm:2:4, nm:1:4, nm:1:8]`."""
    offset: Duration | None = None
    """How much later than the one before it each sub-net updates its masks. Default: 30% of the interval."""
    correction: Literal["within_mask", "whole", "none"] = "within_mask"
    """What a gradient loses that opposes the previous sub-net's: its part along that one as far as the own mask goes, along
    all of it (which moves weights outside the mask), or nothing."""
    unused: Literal["keep", "zero"] | None = None
    """Weights inactive in all sub-nets: keep their values, may return by them and decay; or are zero and return by gradient
    alone. Default: keep; with one sub-net zero."""


@dataclass(frozen=True, kw_only=True)
class SrsteConfig:
    __pydantic_config__ = STRICT

    decay: NonNegative = 2e-4
    """Further weight decay of the inactive weights, the paper's lambda."""


@dataclass(frozen=True, kw_only=True)
class TopKastConfig:
    __pydantic_config__ = STRICT

    backward_density: Density | None = None
    """Fraction of the sparse layers' weights that are trained, those of the forward among them. Default: twice the density."""
    decay: NonNegative = 1e-4
    """Weight decay of the weights that are trained, times 1/density for those that the forward leaves out."""


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    __pydantic_config__ = STRICT

    method: str = "rigl"
    """dense, static, set, rigl, snfs, granet, granet_uniform, gmp, gmp_uniform, mest, shuffled_block, ast, srste,
    acdc or top_kast."""
    density: Density | None = None
    """Fraction of the sparse layers' weights that are active in the end (`keep_dense` not counted). Structure nm gives it."""
    distribution: Literal["erk", "er", "uniform", "table"] | None = None
    """How the active weights are shared out between layers. Default: erk; for structure nm uniform, the only one it has."""
    er_power: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Exponent of the Erdos-Renyi (kernel) ratio."""
    table: dict[str, Density] = field(default_factory=dict)
    """Density by layer for `distribution: table`: name pattern -> density, the first match counts."""
    keep_dense: list[str] = field(default_factory=list)
    """Layers without a mask: name patterns such as `*.downsample.*`, or the words `first` and `last`."""
    structure: str = "unstructured"
    """What is kept or dropped together: unstructured, block:4x1, nm:2:4, fan_in, kernel, kernel_per_filter, pattern,
    channel, filter."""
    init: Literal["random", "magnitude", "snip", "checkpoint"] = "random"
    """The first masks of static, set, rigl, snfs and of granet from a sparse start: random, each layer's largest weights, with
    static those of largest |weight * gradient| (snip). `checkpoint`: those of `model.checkpoint`, for gmp and mest too."""
    update: UpdateConfig = UpdateConfig()
    """When and how far the masks move."""
    ramp: RampConfig = RampConfig()
    """How methods that prune come down to the density."""
    mest: MestConfig = MestConfig()
    """Bounds of method mest."""
    shuffled_block: ShuffledBlockConfig = ShuffledBlockConfig()
    """Blocks of method shuffled_block."""
    ast: AstConfig = AstConfig()
    """Sub-nets of method ast."""
    srste: SrsteConfig = SrsteConfig()
    """Decay of method srste."""
    top_kast: TopKastConfig = TopKastConfig()
    """Backward masks and decay of method top_kast."""
