"""Every key of a run's configuration, with its meaning, unit, bounds and default.

The classes are plain frozen dataclasses; pydantic validates them (:mod:`dist_sparse.config.parse`) and the docstring under
each field is what ``--help`` prints. A key's dotted path is its place in this tree: ``sparsity.update.interval``.
Method defaults that differ from paper to paper are ``None`` here and filled in by the method (see ``sparsity/methods``).
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from dist_sparse.config.duration import Duration, Interval, Length

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Fraction = Annotated[float, Field(ge=0, le=1)]
Density = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError("should be of letters, digits and _ . - only")
    return name


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    __pydantic_config__ = STRICT

    name: str = "cifar_resnet20"
    """Any timm model, or one of the reference papers' families (`python -m dist_sparse.models` lists those)."""
    pretrained: bool = False
    """Start from timm's pretrained weights."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the model's constructor, such as `{width: 2}`; the data set gives `num_classes` and `in_chans`."""


@dataclass(frozen=True, kw_only=True)
class ForgettingConfig:
    __pydantic_config__ = STRICT

    epochs: Natural = 0
    """Epochs on all samples, over which forgetting events are counted. Their ranking is saved in the run's folder."""
    remove: Natural = 0
    """How many of the least forgotten samples are left out from then on. Schedules stay where they are in epochs."""
    ranking: str | None = None
    """Ranking of an earlier run (its folder's `forgetting.pt`) to go by instead of counting."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    __pydantic_config__ = STRICT

    name: str = "digits"
    """Data set: digits, fashion_mnist, cifar10, cifar100, tiny_imagenet or image_folder."""
    root: str = "data"
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch a missing data set into `data.root`, where the network allows."""
    augment: bool = True
    """Augment training images (random crop and, where it makes sense, flip)."""
    crop_padding: Natural | None = None
    """Pixels of padding before a small set's random crop. Default: digits 1, fashion_mnist 2, CIFAR 4, tiny_imagenet 8."""
    padding_mode: Literal["zeros", "reflect"] | None = None
    """How a small set's padding is filled. Default: zeros."""
    flip: bool | None = None
    """Random horizontal flips. Default: yes, except for digits."""
    image_size: Annotated[int, Field(ge=1, le=2048)] | None = None
    """Side of the images in pixels. Small sets are zero-padded up to it; folders are cropped to it (default 224)."""
    resize: Count = 256
    """Shorter side in pixels before the centre crop of validation images (image_folder)."""
    min_scale: Density = 0.08
    """Smallest area, as a fraction of the image, that a random resized crop may take (image_folder)."""
    workers: Natural = 4
    """Loader processes per rank, for training and for validation each (image_folder); 0 loads in the training process."""
    bad_images: Literal["stop", "skip"] = "stop"
    """What a corrupt file does: end the run, or be replaced by its neighbour, in validation left out (image_folder)."""
    forgetting: ForgettingConfig = ForgettingConfig()
    """Data-efficient training: leave out what is not forgotten."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    __pydantic_config__ = STRICT

    epochs: Count = 10
    """Passes over the training set."""
    batch_size: Count = 128
    """Samples per optimizer step over all ranks and accumulation steps together."""
    eval_batch_size: Count = 256
    """Validation samples per rank and batch."""
    accumulation: Count = 1
    """Micro-batches per optimizer step."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Arithmetic: fp32, automatic mixed precision in bf16 or fp16 (fp16 with a loss scaler), or fp64 for checks."""
    channels_last: bool = False
    """Keep images and weights in the NHWC memory format."""
    compile: bool = False
    """Compile the model with torch.compile."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over all classes."""
    mixup: NonNegative = 0.0
    """Alpha of timm's mixup; 0 is off."""
    cutmix: NonNegative = 0.0
    """Alpha of timm's cutmix; 0 is off."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the weights, validated beside them. Off by default."""
    clip_norm: Positive | None = None
    """Largest norm of the (masked) gradient. Off by default."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    nan_limit: Count = 10
    """Steps in a row with a loss that is not finite after which the run stops."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    __pydantic_config__ = STRICT

    name: str = "sgd"
    """Any timm optimizer: sgd (Nesterov), momentum (plain), adamw, lamb, lion ..."""
    lr: Positive = 0.1
    """Peak learning rate, at `optim.lr_batch_size` samples a step if that is given."""
    lr_batch_size: Count | None = None
    """Batch size that `optim.lr` is meant for: the rate used is lr * train.batch_size / lr_batch_size. Default: lr as it is."""
    momentum: Fraction = 0.9
    """Momentum of optimizers that have one (sgd, momentum, lars, muon ...); Adam-like ones take `optim.kwargs.betas`."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of weights with two or more dimensions."""
    decay_norm_and_bias: bool = False
    """Decay norms and biases as well."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer, such as `{betas: [0.9, 0.95]}`; `{}` empties what a base file set."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    __pydantic_config__ = STRICT

    name: str = "cosine"
    """Any timm schedule: cosine, multistep, step, poly, tanh ... or `constant`."""
    warmup: Duration = Length(0, "steps")
    """Linear warm-up at the start. Schedules with an end fill the rest of the run; milestones count from the run's start."""
    warmup_lr: NonNegative = 0.0
    """Learning rate at the first step of the warm-up."""
    min_lr: NonNegative = 0.0
    """Learning rate at the end of schedules that have one."""
    milestones: list[Duration] = field(default_factory=list)
    """When `multistep` multiplies the rate by `scheduler.decay_rate`."""
    decay_every: Interval | None = None
    """How often `step` multiplies the rate by `scheduler.decay_rate`."""
    decay_rate: Density = 0.1
    """Factor of `step` and `multistep`; power of `poly` (1 is linear)."""


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
class SparsityConfig:
    __pydantic_config__ = STRICT

    method: str = "rigl"
    """dense, static, set, rigl, snfs, granet, granet_uniform, gmp, gmp_uniform, mest, shuffled_block, ast or srste."""
    density: Density | None = None
    """Fraction of the sparse layers' weights that are active in the end (`keep_dense` not counted). Structure nm gives it."""
    distribution: Literal["erk", "er", "uniform", "table"] | None = None
    """How the active weights are shared out between layers. Default: erk; for structure nm uniform, the only one it has."""
    er_power: Positive = 1.0
    """Exponent of the Erdos-Renyi (kernel) ratio."""
    table: dict[str, Density] = field(default_factory=dict)
    """Density by layer for `distribution: table`: name pattern -> density, the first match counts."""
    keep_dense: list[str] = field(default_factory=list)
    """Layers without a mask: name patterns such as `*.downsample.*`, or the words `first` and `last`."""
    structure: str = "unstructured"
    """What is kept or dropped together: unstructured, block:4x1, nm:2:4, fan_in, kernel, kernel_per_filter, pattern,
    channel, filter."""
    init: Literal["random", "magnitude", "snip"] = "random"
    """Which masks method static has: random, each layer's largest weights, or those of largest |weight * gradient| (snip)."""
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


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    __pydantic_config__ = STRICT

    name: Literal["ddp"] = "ddp"
    """What runs the step on all ranks."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is a device for each rank."""
    timeout: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    """Minutes a rank waits for the others before the run ends."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    __pydantic_config__ = STRICT

    every: Interval = Length(1, "epochs")
    """Length between two checkpoints; one is always written at the end."""
    keep: Count = 2
    """How many of the last checkpoints stay on disk (the best stays as well)."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    __pydantic_config__ = STRICT

    log_every: Count = 50
    """Steps between two rows of training metrics."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Weights & Biases; auto follows WANDB_MODE if that is set, otherwise it is online where there is a key, else offline."""
    project: str = "dist_sparse"
    """W&B project."""
    entity: str | None = None
    """W&B user or team."""
    group: str | None = None
    """W&B group; by default method, model and data set."""
    tags: list[str] = field(default_factory=list)
    """W&B tags beside method, data set, model and density."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    __pydantic_config__ = STRICT

    name: Annotated[str, AfterValidator(_plain_name)] = "run"
    """Name of the run, of letters, digits and `_.-`; part of the default output folder."""
    output: str | None = None
    """The run's folder. Default: runs/<name>-<time>."""
    resume: str = "never"
    """never; auto: go on from the newest good checkpoint of the run's folder if there is one; or a checkpoint's path."""
    seed: int = 0
    """Seed of everything random."""
    data: DataConfig = DataConfig()
    """Data set and loading."""
    model: ModelConfig = ModelConfig()
    """Network."""
    train: TrainConfig = TrainConfig()
    """Length, batch, arithmetic and regularisation."""
    optim: OptimConfig = OptimConfig()
    """Optimizer."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """Learning rate over time."""
    sparsity: SparsityConfig = SparsityConfig()
    """Masks."""
    engine: EngineConfig = EngineConfig()
    """Processes and devices."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    tracking: TrackingConfig = TrackingConfig()
    """Logging."""
