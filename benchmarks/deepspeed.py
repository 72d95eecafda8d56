"""What applying masks costs under DeepSpeed: to the shards that a rank holds, against DeepSpeed's access to full tensors.

To be started on two ranks or more: ``torchrun --standalone --nproc-per-node=2 -m benchmarks.deepspeed``.
"""

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks import timing
from benchmarks.resnet50 import OPTIMIZER
from dist_sparse import distributed
from dist_sparse.config import Config
from dist_sparse.config.engine import EngineConfig, ZeroConfig
from dist_sparse.config.schema import TrainConfig
from dist_sparse.distributed import Ranks
from dist_sparse.engines.deepspeed import DeepSpeedEngine
from dist_sparse.engines.precision import Precision
from dist_sparse.engines.zero_settings import deepspeed_settings
from dist_sparse.optim import build_optimizer
from dist_sparse.sparsity.layers import sparse_layers
from dist_sparse.sparsity.masks import Masks


def main() -> None:
    args = _arguments()
    ranks = distributed.start(EngineConfig(device=args.device))
    torch.set_num_threads(1)
    for stage in args.stages:
        engine, masks = _train_a_step(stage, args, ranks)
        with contextlib.closing(engine):  # or the next stage, and the rest of the process, would have what this one changed
            for what, candidates in _candidates(engine, masks).items():
                # Waiting for the other ranks counts, so it is the wall clock.
                timings = timing.interleaved(candidates, args.rounds, clock=time.perf_counter)
                if ranks.is_first:
                    print(timings.table(f"stage {stage}, {ranks.world_size} ranks: mask {what}", ["full tensors"]), end="\n\n")
                engine.step(skip=True)
                engine.forward_backward(*_batch(ranks))
    if ranks.is_first:
        print(timing.setting(ranks.device))
    distributed.stop()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="times each way is measured")
    parser.add_argument("--stages", type=int, nargs="+", default=[1, 2, 3], help="ZeRO stages")
    parser.add_argument("--model", default="resnet50", help="any timm model")
    parser.add_argument("--density", type=float, default=0.1, help="active weights over all weights")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def _batch(ranks: Ranks) -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 64, 64, device=ranks.device), torch.randint(1000, (2,), device=ranks.device)


def _train_a_step(stage: int, args: argparse.Namespace, ranks: Ranks) -> tuple[DeepSpeedEngine, Masks]:
    """After a step, so that there is momentum, and the backward of the next."""
    torch.manual_seed(0)
    precision = Precision(device=ranks.device, flattens_weights=True)
    model = precision.place_model(timm.create_model(args.model))
    masks = Masks(sparse_layers(model, keep_dense=[]))
    masks.replace({name: torch.rand(masks[name].shape, device=ranks.device) < args.density for name in masks.names})
    config = dataclasses.replace(
        Config(),
        train=TrainConfig(batch_size=2 * ranks.world_size),
        engine=EngineConfig(name="deepspeed", zero=ZeroConfig(stage=stage, offload="none")),
    )
    engine = DeepSpeedEngine(
        model,
        build_optimizer(OPTIMIZER, model, batch_size=1),
        cross_entropy,
        precision=precision,
        accumulation=1,
        settings=deepspeed_settings(config, ranks.world_size),
    )
    engine.forward_backward(*_batch(ranks))
    engine.step(skip=False)
    if stage < 3:
        # DeepSpeed has linked the states when the first group was stepped, and so those of that group alone.
        engine._deepspeed.optimizer._hp_optimizer_states_linked = False
        engine._deepspeed.optimizer._lazy_init_hp_params_optimizer_state()
    engine.forward_backward(*_batch(ranks))
    return engine, masks


def _candidates(engine: DeepSpeedEngine, masks: Masks) -> dict[str, dict[str, Callable[[], object]]]:
    """By what is masked: through DeepSpeed's functions for full tensors, and our way."""

    def our_weights() -> None:
        engine.mask_weights(masks)
        engine.mask_optimizer_state(masks)

    return {
        "gradients, as in each step": {
            "full tensors": lambda: _full_gradients(engine, masks),
            "shards": lambda: engine.mask_gradients(masks),
        },
        "master, momentum and model, as in a mask update": {
            "full tensors": lambda: _full_weights(engine, masks),
            "shards": our_weights,
        },
    }


def _full_gradients(engine: DeepSpeedEngine, masks: Masks) -> None:
    from deepspeed.utils import safe_get_full_grad, safe_set_full_grad

    for name, parameter in _parameters(engine, masks).items():
        safe_set_full_grad(parameter, safe_get_full_grad(parameter) * masks[name])


@torch.no_grad()
def _full_weights(engine: DeepSpeedEngine, masks: Masks) -> None:
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_full_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
    )

    key = "momentum_buffer"
    for name, parameter in _parameters(engine, masks).items():
        safe_set_full_fp32_param(parameter, safe_get_full_fp32_param(parameter) * masks[name])
        safe_set_full_optimizer_state(parameter, safe_get_full_optimizer_state(parameter, key) * masks[name], key)
        with GatheredParameters([parameter], modifier_rank=0):
            parameter.mul_(masks[name])


def _parameters(engine: DeepSpeedEngine, masks: Masks) -> dict[str, Any]:
    parameters = dict(engine.model.named_parameters())
    return {name: parameters[name] for name in masks.names}


if __name__ == "__main__":
    main()
