"""Every key of a run's configuration, with its meaning, unit, bounds and default.

The classes are plain frozen dataclasses; pydantic validates them (:mod:`dist_sparse.config.parse`) and the docstring under
each field is what ``--help`` prints. A key's dotted path is its place in this tree: ``sparsity.update.interval``.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from dist_sparse.config.data import DataConfig
from dist_sparse.config.duration import Duration, Interval, Length
from dist_sparse.config.engine import EngineConfig
from dist_sparse.config.execution import ExecutionConfig
from dist_sparse.config.numbers import STRICT, Count, Density, Fraction, LeastRate, NonNegative, Positive, Rate
from dist_sparse.config.paths import AnyPath
from dist_sparse.config.sparsity import SparsityConfig

_LONGEST_NAME = 200


def plain_name(name: str) -> str:
    """The name of a run as it is; a ValueError says what is wrong with one that no folder can have."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError("should be of letters, digits and _ . - only")
    if len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"should be at most {_LONGEST_NAME} bytes long, since folders are named after it")
    return name


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    __pydantic_config__ = STRICT

    name: str = "cifar_resnet20"
    """Any timm model, or one of the reference papers' families (`python -m dist_sparse.models` lists those)."""
    pretrained: bool = False
    """Start from timm's pretrained weights."""
    checkpoint: AnyPath | None = None
    """Start from the weights in this file: a state dict of timm or torchvision (.pt, .pth or .safetensors; also under
    `state_dict`, `model`, `state_dict_ema` or `model_ema`, averaged ones first, and with DDP's or torch.compile's prefixes), a
    checkpoint or folder of a run, an exported `sparse` file, or hf-hub:OWNER/NAME where the network allows. A classifier of
    another size begins anew. The run itself never asks for the file again. It does not tell how its images were normalised:
    see `data.mean`."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of residual branches that are left out of a training sample (stochastic depth, timm's drop_path_rate), the last
    block's; refused for networks that have none. Default: the network's own."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the model's constructor, such as `{width: 2}`; the data set gives `num_classes` and `in_chans`."""

    def __post_init__(self) -> None:
        if self.pretrained and self.checkpoint is not None:
            raise ValueError(
                f"model.pretrained and model.checkpoint={self.checkpoint} exclude each other: a run starts from one of them"
            )
        if self.drop_path is not None and "drop_path_rate" in self.kwargs:
            raise ValueError("model.kwargs: drop_path_rate has a key of its own, model.drop_path")


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
    grad_checkpointing: bool = False
    """Keep the activations between blocks alone, and compute those within them again in the backward pass (timm's
    set_grad_checkpointing): less memory, a third more time. Running statistics of batch norms are then updated twice a step."""
    sync_batch_norm: bool = False
    """Batch norms take their statistics from all ranks' samples (torch's SyncBatchNorm, on CUDA alone)."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over all classes."""
    bce: bool = False
    """Binary cross-entropy of each class by itself (timm's) in the place of cross-entropy. Validation keeps the latter."""
    bce_threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    """With train.bce: targets above this are 1, all others 0. Off by default: targets stay as smoothing and mixup make them."""
    bce_sum: bool = False
    """With train.bce: the loss of a sample is the sum over classes. Default: the mean."""
    mixup: NonNegative = 0.0
    """Alpha of timm's mixup; 0 is off."""
    cutmix: NonNegative = 0.0
    """Alpha of timm's cutmix; 0 is off."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the weights, validated beside them. Off by default."""
    ema_warmup: bool = False
    """With train.ema: a lower decay at first, 1 - (1 + step) ** (-2/3) as long as that is less (timm's)."""
    clip_norm: Positive | None = None
    """Largest norm of the (masked) gradient. Off by default."""
    validate_every: Count = 1
    """Epochs between validations; the last epoch is always validated."""
    nan_limit: Count = 10
    """Steps in a row with a loss, or gradients, that are not finite after which the run stops."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    __pydantic_config__ = STRICT

    name: str = "sgd"
    """Any timm optimizer: sgd (Nesterov), momentum (plain), adamw, lamb, lion ..."""
    lr: Rate = 0.1
    """Peak learning rate, at `optim.lr_batch_size` samples a step if that is given."""
    lr_batch_size: Count | None = None
    """Batch size that `optim.lr` is meant for: the rate used is lr * train.batch_size / lr_batch_size. Default: lr as it is."""
    momentum: Fraction = 0.9
    """Momentum of optimizers that have one (sgd, momentum, lars, muon ...); Adam-like ones take `optim.kwargs.betas`."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of weights with two or more dimensions."""
    decay_norm_and_bias: bool = False
    """Decay norms and biases as well."""
    layer_decay: Density | None = None
    """Factor of the learning rate from each layer to the one before it (timm's), so that the first layers change least. Off by
    default."""
    lookahead: bool = False
    """timm's Lookahead around the optimizer: slow weights follow it, and it begins anew from them."""
    lookahead_k: Count = 6
    """With optim.lookahead: steps between two moves of the slow weights."""
    lookahead_alpha: Annotated[float, Field(gt=0, le=1)] = 0.5
    """With optim.lookahead: how far of the way the slow weights go."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer, such as `{betas: [0.9, 0.95]}`; `{}` empties what a base file set."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    __pydantic_config__ = STRICT

    name: str = "cosine"
    """Any timm schedule: cosine, multistep, step, poly, tanh ... or `constant`."""
    warmup: Duration = Length(0, "steps")
    """Linear warm-up at the start. Schedules with an end fill the rest of the run; milestones count from the run's start."""
    warmup_lr: LeastRate = 0.0
    """Learning rate at the first step of the warm-up."""
    min_lr: LeastRate = 0.0
    """Learning rate at the end of schedules that have one."""
    milestones: list[Duration] = field(default_factory=list)
    """When `multistep` multiplies the rate by `scheduler.decay_rate`."""
    decay_every: Interval | None = None
    """How often `step` multiplies the rate by `scheduler.decay_rate`."""
    decay_rate: Density = 0.1
    """Factor of `step` and `multistep`; power of `poly` (1 is linear)."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    __pydantic_config__ = STRICT

    every: Interval = Length(1, "epochs")
    """Length between two checkpoints; one is always written at the end."""
    keep: Count = 2
    """How many of the last checkpoints stay on disk (the best stays as well)."""
    format: Literal["plain", "packed"] = "plain"
    """plain: tensors as timm and torch.load know them; packed: of those that are mostly zeros the bits and the values, which
    this program alone reads (its export gives plain ones)."""


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
    """W&B group; by default the Slurm array, or else method, model and data set."""
    job_type: str | None = None
    """W&B job type; by default method and density, so that runs of a group that differ in their seeds stand together."""
    tags: list[str] = field(default_factory=list)
    """W&B tags beside method, data set, model, density and Slurm array."""
    artifacts: bool = False
    """Upload the final checkpoint and the statistics of the masks (layers.csv) to W&B when the run has finished."""
    tensorboard: bool = False
    """Write the numbers of metrics.csv for TensorBoard, too (the extra dist_sparse[tensorboard]); into the run's folder."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    __pydantic_config__ = STRICT

    name: Annotated[str, AfterValidator(plain_name)] = "run"
    """Name of the run, of letters, digits and `_.-`; part of the default output folder."""
    output: AnyPath | None = None
    """The run's folder. Default: runs/<name>-<time>; under a W&B sweep agent runs/<name>-sweep-<id of the W&B run>."""
    resume: AnyPath = "never"
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
    execution: ExecutionConfig = ExecutionConfig()
    """How masked layers are computed."""
    engine: EngineConfig = EngineConfig()
    """Processes and devices."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    tracking: TrackingConfig = TrackingConfig()
    """Logging."""
