"""DeepSpeed's configuration for a run: the user's JSON file, and what our own keys decide in it.

A setting that a key of ours decides must be absent from the file, ``"auto"``, or equal. DeepSpeed drops settings that it does
not know without a word, and some that it knows would undo masks or move the weights by themselves: others than those
named here are refused.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dist_sparse.config import Config
from dist_sparse.config.engine import EngineConfig, ZeroConfig
from dist_sparse.config.recipes import shipped
from dist_sparse.errors import UserError, is_unknown
from dist_sparse.inputs import expand, is_there, read_json

_FREE = {
    "communication_data_type",
    "memory_breakdown",
    "steps_per_print",
    "torch_autocast.lower_precision_safe_modules",
    "wall_clock_breakdown",
    *(
        f"zero_optimization.{key}"
        for key in (
            "allgather_bucket_size",
            "allgather_partitions",
            "contiguous_gradients",
            "offload_optimizer.pin_memory",
            "overlap_comm",
            "reduce_bucket_size",
            "reduce_scatter",
            "stage3_max_live_parameters",
            "stage3_max_reuse_distance",
            "stage3_param_persistence_threshold",
            "stage3_prefetch_bucket_size",
            "sub_group_size",
        )
    ),
}
"""Settings that are DeepSpeed's alone."""
_ACCEPTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps_per_print": (
        lambda value: value is None or (isinstance(value, int | float) and value >= 1),
        "a number of at least 1, or null",
    ),
    "zero_optimization.allgather_bucket_size": (
        lambda value: isinstance(value, int | float) and value >= 2 and value % 2 == 0,
        "an even number of at least 2",
    ),
}
"""What some of these may be; DeepSpeed itself would end with a traceback over other values."""
_DEFAULTS: dict[str, Any] = {
    "steps_per_print": None,
    "zero_force_ds_cpu_optimizer": False,  # which would have to be compiled, and would take the place of timm's
    "torch_autocast.lower_precision_safe_modules": [],  # so that gradients are averaged in fp32, as by DDP
}
_ELSEWHERE = {"optimizer": "optim.name", "scheduler": "scheduler.name"}
"""Whole sections that another key of ours takes the place of."""
STAGES, OFFLOADS = (0, 1, 2, 3), ("none", "cpu")
DEFAULT_STAGE = 1
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def resolve_zero(engine: EngineConfig) -> EngineConfig:
    """With stage and offload filled in from the file.

    Raises:
        UserError: a file that cannot be used.
    """
    settings = _read(engine.deepspeed_config)
    stage = _first(engine.zero.stage, settings.get("zero_optimization.stage"), DEFAULT_STAGE)
    offload = _first(engine.zero.offload, settings.get("zero_optimization.offload_optimizer.device"), "none")
    for setting, value, accepted in (
        ("zero_optimization.stage", stage, STAGES),
        ("zero_optimization.offload_optimizer.device", offload, OFFLOADS),
    ):
        if value not in accepted or type(value) is not type(accepted[0]):
            raise UserError(
                f"{engine.deepspeed_config}: {setting}={value!r:.200} should be one of {', '.join(map(str, accepted))}"
            )
    if stage == 0 and offload != "none":
        raise UserError(f"engine.zero.offload={offload}: stage 0 shares nothing out; engine.zero.stage 1, 2 and 3 can offload")
    return dataclasses.replace(engine, zero=ZeroConfig(stage=stage, offload=offload))


def reason_of(error: ValueError) -> str:
    """In one line, what DeepSpeed says of a setting's value."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _first(*values: Any) -> Any:
    return next(value for value in values if value not in (None, "auto"))


def deepspeed_settings(config: Config, world_size: int) -> dict[str, Any]:
    """What ``deepspeed.initialize`` takes, from a resolved configuration.

    Raises:
        UserError: the file contradicts a key of ours, or something does not go with DeepSpeed.
    """
    _check_train(config)
    given, decided = _read(config.engine.deepspeed_config), _decided(config, world_size)
    for setting, value in given.items():
        source = f"{config.engine.deepspeed_config}: {setting}"
        if setting in decided:
            key, ours = decided[setting]
            if value != "auto" and value != ours:
                raise UserError(
                    f"{source}={value!r:.200} contradicts {key}, which makes it {ours!r}; leave it out or write 'auto'"
                )
        elif (section := setting.partition(".")[0]) in _ELSEWHERE:
            if value != "auto":
                raise UserError(f"{source} contradicts {_ELSEWHERE[section]}; leave {section} out or write 'auto'")
        elif setting not in _FREE:
            raise UserError(f"{source} {is_unknown(setting, [*_FREE, *decided])}")
        elif value == "auto":
            raise UserError(f"{source}='auto': no key decides it; give a value or leave it out")
        elif setting in _ACCEPTED and not _ACCEPTED[setting][0](value):
            raise UserError(f"{source}={value!r:.200} should be {_ACCEPTED[setting][1]}")
    merged = {setting: value for setting, value in given.items() if setting in _FREE}
    merged |= {setting: value for setting, (_, value) in decided.items() if setting.partition(".")[0] not in _DTYPES}
    return _nested({**_DEFAULTS, **merged})


def _check_train(config: Config) -> None:
    train = config.train
    if train.precision == "fp64":
        raise UserError("train.precision=fp64: DeepSpeed trains fp32 weights; engine.name=ddp can, or fp32, bf16, fp16")
    if train.compile:
        raise UserError("train.compile=true: goes with engine.name=ddp only")


def _decided(config: Config, world_size: int) -> dict[str, tuple[str, Any]]:
    """Settings that keys of ours decide: the key, and the value."""
    train, zero = config.train, config.engine.zero
    mixed = train.precision in _DTYPES
    return {
        "train_batch_size": ("train.batch_size", train.batch_size),
        "train_micro_batch_size_per_gpu": (
            f"train.batch_size over {world_size} ranks x {train.accumulation} accumulation steps",
            train.batch_size // (world_size * train.accumulation),
        ),
        "gradient_accumulation_steps": ("train.accumulation", train.accumulation),
        "gradient_clipping": ("train.clip_norm", train.clip_norm or 0.0),
        "fp16.enabled": ("train.precision", train.precision == "fp16"),
        "bf16.enabled": ("train.precision", train.precision == "bf16"),
        # Weights stay fp32: bf16.enabled and fp16.enabled break batch norm's running statistics.
        "torch_autocast.enabled": ("train.precision", mixed),
        **({"torch_autocast.dtype": ("train.precision", _DTYPES[train.precision])} if mixed else {}),
        "zero_optimization.stage": ("engine.zero.stage", zero.stage),
        "zero_optimization.offload_optimizer.device": ("engine.zero.offload", zero.offload),
        "zero_allow_untested_optimizer": ("optim.name", True),
        # Anything else would fail beside the default reduce_scatter, and at stage 3 without it make gradients too small.
        "prescale_gradients": ("engine.name=deepspeed", False),
        "gradient_predivide_factor": ("engine.name=deepspeed", 1.0),
    }


def _read(path: str | None) -> dict[str, Any]:
    """A JSON file's settings by dotted path."""
    if path is None:
        return {}
    file = expand(path)
    settings = read_json(file if is_there(file) else Path(shipped(path) or file), f"engine.deepspeed_config={path}")
    if not isinstance(settings, dict):
        raise UserError(f"engine.deepspeed_config={path}: holds a {type(settings).__name__}, not a JSON object")
    return _flat(settings)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for setting, value in flat.items():
        *sections, key = setting.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return tree
