"""The section `engine` of a configuration: processes, devices, and what runs the step on them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dist_sparse.config.numbers import STRICT
from dist_sparse.config.paths import AnyPath


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    __pydantic_config__ = STRICT

    stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """What is sharded over ranks: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too. By default what
    `engine.deepspeed_config` says, else 1."""
    offload: Literal["none", "cpu"] | None = None
    """Where the optimizer's state and step are in stages 1 to 3: cpu, or none for the device. By default what
    `engine.deepspeed_config` says, else none."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    __pydantic_config__ = STRICT

    name: str = "ddp"
    """ddp or deepspeed. What runs the step on all ranks: torch's DistributedDataParallel, or DeepSpeed with ZeRO."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is a device for each rank."""
    exchange: Literal["auto", "masked", "dense"] = "auto"
    """Which gradients ddp averages over ranks: masked sends those of active weights only, which loses nothing, but all on steps
    whose method needs all; auto does so for buckets of which at most half is active, but not between GPUs of one machine."""
    compress: Literal["none", "bf16"] = "none"
    """bf16: ddp averages gradients in half the bytes; loses precision."""
    timeout: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    """Minutes a rank waits for the others before the run ends."""
    zero: ZeroConfig = ZeroConfig()
    """Sharding by DeepSpeed."""
    deepspeed_config: AnyPath | None = None
    """JSON file of DeepSpeed's own settings, such as configs/deepspeed/zero2.json. It may repeat what keys of ours decide, but
    not contradict them. With --smoke, which has another batch, write "auto" for the batch's sizes or leave them out."""
